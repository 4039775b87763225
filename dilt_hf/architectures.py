"""Two small networks that transformers lacks, as transformers models: a CIFAR ResNet and Conv-3.

The file needs nothing but torch and transformers, so it can travel inside a checkpoint (`trust_remote_code=True`).
"""

from itertools import pairwise

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, ResNetConfig, ResNetForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput


class CifarResNetConfig(ResNetConfig):
    """A `ResNetConfig` whose stem is one 3x3 convolution of stride 1 without pooling, for pictures of about 32 px."""

    model_type = "cifar_resnet"


class CifarResNetForImageClassification(ResNetForImageClassification):
    """ResNet with the CIFAR stem of He et al. (2016, arXiv 1512.03385, section 4.2): 3x3, stride 1, no max-pooling."""

    config_class = CifarResNetConfig

    def __init__(self, config):
        super().__init__(config)
        stem = self.resnet.embedder
        stem.embedder.convolution = nn.Conv2d(
            config.num_channels, config.embedding_size, kernel_size=3, stride=1, padding=1, bias=False
        )
        stem.pooler = nn.Identity()
        self.post_init()


class Conv3Config(PreTrainedConfig):
    """Three convolutions with pooling, and a linear classifier: the small network of the Routing-the-Lottery paper."""

    model_type = "conv3"

    def __init__(self, num_channels=3, hidden_sizes=(32, 64, 128), **kwargs):
        self.num_channels = num_channels
        self.hidden_sizes = list(hidden_sizes)
        super().__init__(**kwargs)


class Conv3ForImageClassification(PreTrainedModel):
    """Conv-3: (3x3 convolution, batch norm, ReLU, 2x2 max-pooling) three times, mean over positions, linear head."""

    config_class = Conv3Config
    base_model_prefix = "features"
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        widths = [config.num_channels, *config.hidden_sizes]
        self.num_labels = config.num_labels
        self.features = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width_in, width_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(),
                nn.MaxPool2d(2, ceil_mode=True),  # keeps pictures smaller than 8 px alive
            )
            for width_in, width_out in pairwise(widths)
        )
        self.classifier = nn.Linear(widths[-1], config.num_labels)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
            nn.init.zeros_(module.running_mean)
            nn.init.ones_(module.running_var)
            nn.init.zeros_(module.num_batches_tracked)
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
            nn.init.zeros_(module.bias)

    def forward(self, pixel_values, labels=None, output_hidden_states=False, return_dict=None, **kwargs):
        hidden = pixel_values
        states = []
        for block in self.features:
            hidden = block(hidden)
            states.append(hidden)
        logits = self.classifier(hidden.mean(dim=(2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        output = ImageClassifierOutput(
            loss=loss, logits=logits, hidden_states=tuple(states) if output_hidden_states else None
        )
        return output.to_tuple() if return_dict is False else output
