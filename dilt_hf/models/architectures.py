"""Networks that transformers lacks, as transformers models: the ResNets for CIFAR, Conv-3, and thinned ViTs.

The file needs nothing but torch and transformers, so it can travel inside a checkpoint (`trust_remote_code=True`).
"""

import copy
from itertools import pairwise

from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.modeling_outputs import ImageClassifierOutput


class CifarResNetConfig(ResNetConfig):
    """A `ResNetConfig` whose stem is one 3x3 convolution of stride 1 without pooling, for images of about 32 px."""

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


def _classified(logits, labels, states, return_dict):
    """Assemble the output of transformers' image classifiers."""
    loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
    hidden_states = None if states is None else tuple(states)
    output = ImageClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states)
    return output.to_tuple() if return_dict is False else output


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
                nn.MaxPool2d(2, ceil_mode=True),  # keeps images smaller than 8 px alive
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
        return _classified(logits, labels, states if output_hidden_states else None, return_dict)


class HeResNetConfig(PreTrainedConfig):
    """The ResNets of depth 6n + 2 for CIFAR (n = 3 is ResNet-20, n = 9 ResNet-56)."""

    model_type = "he_resnet"

    def __init__(self, num_channels=3, blocks_per_stage=3, hidden_sizes=(16, 32, 64), **kwargs):
        self.num_channels = num_channels
        self.blocks_per_stage = blocks_per_stage
        self.hidden_sizes = list(hidden_sizes)
        super().__init__(**kwargs)


class HeBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut without weights (option A: every second pixel, new channels zero)."""

    def __init__(self, width_in, width_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.stride, self.new_channels = stride, width_out - width_in

    def forward(self, hidden):
        before = self.new_channels // 2
        shortcut = hidden[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, before, self.new_channels - before))
        inner = self.bn2(self.conv2(nn.functional.relu(self.bn1(self.conv1(hidden)))))
        return nn.functional.relu(inner + shortcut)


class HeResNetForImageClassification(PreTrainedModel):
    """ResNet-20 to ResNet-110 of He et al. (2016, arXiv 1512.03385, section 4.2), with parameter-free shortcuts.

    The names are those of the checkpoints in github.com/akamaster/pytorch_resnet_cifar10.
    """

    config_class = HeResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config):
        super().__init__(config)
        self.num_labels = config.num_labels
        widths = config.hidden_sizes
        self.conv1 = nn.Conv2d(config.num_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = []
        for stage, width in enumerate(widths, start=1):
            before = widths[max(stage - 2, 0)]
            blocks = [
                HeBlock(width if block else before, width, 2 if stage > 1 and not block else 1)
                for block in range(config.blocks_per_stage)
            ]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
            self.stages.append(f"layer{stage}")
        self.linear = nn.Linear(widths[-1], config.num_labels)
        self.post_init()

    def get_classifier(self):
        return self.linear

    def _init_weights(self, module):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()

    def forward(self, pixel_values, labels=None, output_hidden_states=False, return_dict=None, **kwargs):
        hidden = nn.functional.relu(self.bn1(self.conv1(pixel_values)))
        states = [hidden]
        for stage in self.stages:
            for block in getattr(self, stage):
                hidden = block(hidden)
                states.append(hidden)
        logits = self.linear(hidden.mean(dim=(2, 3)))
        return _classified(logits, labels, states if output_hidden_states else None, return_dict)


class ThinViTConfig(ViTConfig):
    """A `ViTConfig` with `head_dim`, and with lists `heads_per_layer` and `widths_per_layer`: how many heads and hidden
    units each layer has.
    """

    model_type = "thin_vit"


class ThinDeiTConfig(DeiTConfig):
    """A `DeiTConfig` with the same additions as `ThinViTConfig`."""

    model_type = "thin_deit"


class ThinViTForImageClassification(ViTForImageClassification):
    """ViT (arXiv 2010.11929) whose layers differ in heads and hidden units."""

    config_class = ThinViTConfig

    def __init__(self, config):
        super().__init__(config)
        _thin(self.vit.layers, config)
        self.post_init()


class ThinDeiTForImageClassification(DeiTForImageClassification):
    """DeiT (arXiv 2012.12877) whose layers differ in heads and hidden units."""

    config_class = ThinDeiTConfig

    def __init__(self, config):
        super().__init__(config)
        _thin(self.deit.layers, config)
        self.post_init()


def _thin(layers, config):
    """Replace attention and MLP of each layer by ones of its own size."""
    for layer, heads, width in zip(layers, config.heads_per_layer, config.widths_per_layer, strict=True):
        own = copy.deepcopy(config)
        own.num_attention_heads, own.intermediate_size = heads, width
        layer.attention, layer.mlp = type(layer.attention)(own), type(layer.mlp)(own)
        layer.attention.config = layer.mlp.config = config  # one kind of attention for all, whenever it is chosen
