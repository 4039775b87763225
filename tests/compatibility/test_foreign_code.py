"""No code that a repository names is ever run, with `kernels` installed: transformers would fetch it and import it.

At the oldest version of transformers with the real `kernels` of its time, and at the pinned one with a stand-in that
does the same without asking whom the Hub trusts. The oldest versions lie in `.compat/oldest`: `make .compat/oldest`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.loopback_hub import LoopbackHub
from helpers.tickets import build

from dilt_hf.models import factory

HERE = Path(__file__).parent
OLDEST = HERE.parents[1] / ".compat/oldest"
WORKER = HERE.parent / "helpers/foreign_code_worker.py"
CODE = "import os, pathlib; pathlib.Path(os.environ['MARKER']).touch()\n"
KERNEL = "me/kernel"

# What a stranger may write into config.json. Each names code, another repository or a file, in some spelling.
HOSTILE = {
    "attn_implementation": {"attn_implementation": KERNEL},
    "attn_revision": {"attn_implementation": f"{KERNEL}@main"},
    "attn_function": {"attn_implementation": f"{KERNEL}:forward"},
    "attn_paged": {"attn_implementation": f"paged|{KERNEL}"},
    "attn_spaces": {"attn_implementation": f" {KERNEL} "},
    "attn_dict": {"attn_implementation": {"": KERNEL}},
    "attn_list": {"attn_implementation": [KERNEL]},
    "attn_flash": {"attn_implementation": "flash_attention_2"},
    "attn_flash_3": {"attn_implementation": "flash_attention_3"},
    "attn_flex": {"attn_implementation": "flex_attention"},
    "_attn_implementation": {"_attn_implementation": KERNEL},
    "_attn_internal": {"_attn_implementation_internal": KERNEL},
    "attn_autoset": {"_attn_implementation_autoset": KERNEL},
    "experts_implementation": {"experts_implementation": KERNEL},
    "_experts_implementation": {"_experts_implementation": KERNEL},
    "_experts_internal": {"_experts_implementation_internal": KERNEL},
    "other_implementation": {"attention_implementation": KERNEL},
    "redirected": {"attribute_map": {"hidden_act": "_attn_implementation"}, "hidden_act": KERNEL},
    "redirected_new": {"attribute_map": {"other": "_attn_implementation"}, "other": KERNEL},
    "redirected_internal": {"attribute_map": {"other": "_attn_implementation_internal"}, "other": KERNEL},
    "sub_config": {"vision_config": {"model_type": "vit", "attn_implementation": KERNEL}},
    "sub_configs": {"sub_configs": {"vision_config": "ViTConfig"}, "vision_config": {"_attn_implementation": KERNEL}},
    "text_config": {"text_config": {"model_type": "bert", "attn_implementation": KERNEL}},
    "backbone_config": {"backbone_config": {"model_type": "dinov2", "_attn_implementation": KERNEL}},
    "per_layer": {"per_layer_config": {"0": {"attn_implementation": KERNEL}}},
    "use_kernels": {"use_kernels": True, "kernel_config": {"kernel_mapping": {"LayerNorm": f"{KERNEL}:LayerNorm"}}},
    "auto_map": {"auto_map": {"AutoConfig": f"{KERNEL}--code.C", "AutoModelForImageClassification": "code.M"}},
    "auto_map_own": {"auto_map": {"AutoModelForImageClassification": "code.M"}, "model_type": "mine"},
    "custom_model": {"model_type": "mine", "auto_map": {"AutoConfig": f"{KERNEL}--code.C"}},
    "quantised": {"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": [KERNEL]}},
    "quantised_mxfp4": {"quantization_config": {"quant_method": "mxfp4"}},
    "quantised_eetq": {"quantization_config": {"quant_method": "eetq"}},
    "quantised_bnb": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    "quantised_custom": {"quantization_config": {"quant_method": KERNEL}},
    "backbone": {"backbone": KERNEL, "use_pretrained_backbone": True},
    "timm_backbone": {"backbone": f"hf-hub:{KERNEL}", "use_timm_backbone": True, "use_pretrained_backbone": True},
    "timm": {"model_type": "timm_wrapper", "architecture": f"hf-hub:{KERNEL}"},
    "timm_local": {"model_type": "timm_wrapper", "architecture": f"local-dir:{KERNEL}"},
    "timm_pretrained": {"model_type": "timm_wrapper", "architecture": "vit_tiny", "model_args": {"pretrained": True}},
    "timm_checkpoint": {
        "model_type": "timm_wrapper",
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"checkpoint_path": "x.bin", "pretrained_cfg": {"hf_hub_id": KERNEL}},
    },
    "weights": {"transformers_weights": "pytorch_model.bin"},
    "name_or_path": {"name_or_path": KERNEL, "_name_or_path": KERNEL},
    "adapter": {"base_model_name_or_path": KERNEL, "peft_type": "LORA"},
    "dtype": {"dtype": "load"},
    "trust": {"trust_remote_code": True, "code_revision": "main", "auto_map": {"AutoModel": f"{KERNEL}--code.M"}},
    "processor": {"image_processor_type": "Mine", "custom_pipelines": {"x": {"impl": "code.P"}}},
    "plans": {"base_model_tp_plan": {"x": KERNEL}, "tp_plan": "auto", "device_map": "auto"},
    "flash_old": {"use_flash_attn": True, "_flash_attn_2_enabled": True, "attn_impl": KERNEL},
}
ENVIRONMENTS = {"pinned": HERE / "stand_in", "oldest": OLDEST}


@pytest.fixture(params=ENVIRONMENTS)
def environment(request, tmp_path):
    """Where the versions lie, and a Hub with a kernel; `ran` tells whether its code did."""
    if not ENVIRONMENTS[request.param].is_dir():
        pytest.skip("the oldest supported versions are not here: `make .compat/oldest` installs them")
    with LoopbackHub() as hub:
        files = ("build/torch-universal/__init__.py", "code.py")
        hub.create(KERNEL)
        hub.commit(KERNEL, dict.fromkeys(files, CODE.encode()))
        marker = tmp_path / "marker"

        def run(folder, way):
            variables = hub.environment | {
                "MARKER": str(marker),
                "HF_HOME": str(tmp_path / "home"),
                "PYTHONPATH": os.pathsep.join(map(str, (ENVIRONMENTS[request.param], HERE.parents[1]))),
            }
            hub.traffic()
            done = subprocess.run(
                [sys.executable, WORKER, folder, way],
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=250,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            found = json.loads(done.stdout.splitlines()[-1])
            assert found["kernels"], "transformers does not see the package"
            return found | {"ran": marker.exists(), "requests": hub.traffic()["requests"]}

        yield run


def checkpoints(folder, changes):
    """A checkpoint of each change in its configuration."""
    model = build("vit-micro", 8)
    for name, change in changes.items():
        factory.save_model(model, folder / name)
        path = folder / name / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        (folder / name / "code.py").write_text(CODE)
    return folder


def test_plain_transformers_runs_a_kernel_that_a_configuration_names(environment, tmp_path):
    """Without this the next test could not fail."""
    attn = {name: HOSTILE[name] for name in ("attn_implementation", "_attn_implementation")}  # one for each version
    found = environment(checkpoints(tmp_path / "plain", attn), "plain")
    assert found["ran"], found


@pytest.mark.slow
def test_no_code_that_a_repository_names_is_run(environment, tmp_path):
    found = environment(checkpoints(tmp_path / "hostile", {"honest": {}, **HOSTILE}), "ours")
    assert "error" not in found, found
    assert not found["ran"], found
    assert found["requests"] == []  # nothing was even asked for
    assert set(found["opened"]["honest"].values()) == {"ViTForImageClassification"}
    assert not [outcome for ways in found["opened"].values() for outcome in ways.values() if "failed" in outcome]
