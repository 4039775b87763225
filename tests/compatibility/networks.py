"""A tiny random network of every image classifier of transformers, and of families of timm, by their configurations."""

SIZE, CLASSES = 32, 5

_CLIP_VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 8,
}
_CLIP_TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 99,
}
_VIT = {**_CLIP_VISION}
_SWIN = {"image_size": SIZE, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}

# By model_type (a second one of the same type after a hyphen-free suffix); every value is as in config.json.
TRANSFORMERS = {
    "beit": _VIT,
    "bit": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "num_groups": 4},
    "clip": {"vision_config": _CLIP_VISION, "text_config": _CLIP_TEXT, "projection_dim": 16},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "image_size": SIZE},
    "convnextv2": {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2, "image_size": SIZE},
    "cvt": {"embed_dim": [16, 32, 32], "num_heads": [1, 2, 2], "depth": [1, 2, 3]},
    "data2vec-vision": _VIT,
    "deit": _VIT,
    "dinat": {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "kernel_size": 3, "dilations": [[1], [1]]},
    "dinov2": _VIT,
    "dinov2 swiglu": {"model_type": "dinov2", **_VIT, "use_swiglu_ffn": True},
    "dinov2_with_registers": _VIT,
    "donut-swin": _SWIN,
    "efficientnet": {
        "image_size": SIZE,
        "width_coefficient": 0.2,
        "depth_coefficient": 0.2,
        "hidden_dim": 256,
        "num_hidden_layers": 7,
    },
    "focalnet": {"image_size": SIZE, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2]}
    | {"focal_windows": [3, 3], "hidden_sizes": [16, 32]},
    "hgnet_v2": {
        "embedding_size": 8,
        "depths": [1, 1],
        "hidden_sizes": [16, 32],
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16],
        "stage_mid_channels": [8, 8],
        "stage_out_channels": [16, 32],
        "stage_num_blocks": [1, 2],
        "stage_downsample": [False, True],
        "stage_light_block": [False, True],
        "stage_kernel_size": [3, 5],
        "stage_numb_of_layers": [2, 2],
    },
    "hiera": {
        "image_size": [SIZE, SIZE],
        "embed_dim": 16,
        "depths": [1, 1, 1],
        "num_heads": [1, 2, 2],
        "patch_size": [3, 3],
        "patch_stride": [2, 2],
        "patch_padding": [1, 1],
        "masked_unit_size": [4, 4],
        "num_query_pool": 2,
    },
    "ijepa": _VIT,
    "imagegpt": {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 99, "n_positions": 64},
    "levit": {
        "hidden_sizes": [16, 32, 48],
        "num_attention_heads": [2, 4, 6],
        "depths": [1, 1, 2],
        "key_dim": [8, 8, 8],
    },
    "metaclip_2": {"vision_config": _CLIP_VISION, "text_config": _CLIP_TEXT, "projection_dim": 16},
    "mobilenet_v1": {"depth_multiplier": 0.25, "min_depth": 8, "image_size": SIZE},
    "mobilenet_v2": {"depth_multiplier": 0.25, "min_depth": 8, "image_size": SIZE},
    "mobilevit": {
        "image_size": SIZE,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 8, 16, 16, 24, 32],
        "num_attention_heads": 2,
    },
    "mobilevitv2": {"image_size": SIZE, "width_multiplier": 0.25},
    "perceiver": {
        "num_latents": 8,
        "d_latents": 32,
        "d_model": 16,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
        "image_size": SIZE,
    },
    "poolformer": {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "pp_lcnet": {"scale": 0.25, "hidden_channels": 64},
    "pvt": {
        "image_size": SIZE,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 2],
        "sequence_reduction_ratios": [2, 2, 1, 1],
    },
    "pvt_v2": {
        "image_size": SIZE,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 2],
        "mlp_ratios": [2, 2, 2, 2],
    },
    "regnet": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "groups_width": 8, "layer_type": "y"},
    "resnet": {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "basic"},
    "segformer": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 2, 2],
        "decoder_hidden_size": 16,
    },
    "shieldgemma2": {
        "vision_config": {**_CLIP_VISION, "model_type": "siglip_vision_model"},
        "text_config": {**_CLIP_TEXT, "model_type": "gemma3_text", "head_dim": 8, "num_key_value_heads": 1},
        "mm_tokens_per_image": 4,
    },
    "siglip": {"vision_config": _CLIP_VISION, "text_config": _CLIP_TEXT},
    "siglip2": {"vision_config": {**_CLIP_VISION, "num_patches": 16}, "text_config": _CLIP_TEXT},
    "swiftformer": {"image_size": SIZE, "embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]},
    "swin": _SWIN,
    "swinv2": _SWIN,
    "textnet": {
        "stem_out_channels": 8,
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 1]], [[1, 3]], [[3, 3]]],
        "conv_layer_strides": [[1], [2], [2], [2]],
        "hidden_sizes": [8, 16, 24, 32, 40],
    },
    "vit": _VIT,
    "vit_msn": _VIT,
}

SIZES = {"mobilevitv2": 64, "levit": 64}  # the others take 32 px
