import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

from toolchain.errors import IntegrityError, StepError, UsageError
from toolchain.runtimes.adapters.onnxruntime import open_session

CPU = "CPUExecutionProvider"
TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)

# The mean over all positions of the table's rows, where attended.
GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
tiny (int64[B,N] input_ids, int64[B,N] attention_mask) => (float[B,3] logits)
<float[4,3] table = {0,1,2,3,4,5,6,7,8,9,10,11}, int64[1] last = {2}>
{
  rows = Gather(table, input_ids)
  mask = Cast<to = 1>(attention_mask)
  mask3 = Unsqueeze(mask, last)
  kept = Mul(rows, mask3)
  logits = ReduceMean<axes = [1], keepdims = 0>(kept)
}
"""


def save(path, text=GRAPH):
    onnx.save(onnx.parser.parse_model(text), str(path))
    return path


def opened(path, threads=1):
    return open_session(path, threads=threads, provider=CPU)


def feed(ids, **others):
    ids = np.asarray(ids, dtype=np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), **others}


def test_logits_are_those_of_the_graph(tmp_path):
    logits = opened(save(tmp_path / "m.onnx")).run(feed([[0, 3], [1, 1]]))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, [TABLE[[0, 3]].mean(0), TABLE[1]])


def test_inputs_the_graph_does_not_have_are_left_out(tmp_path):
    session = opened(save(tmp_path / "m.onnx"))
    typed = feed([[1, 2]], token_type_ids=np.zeros((1, 2), dtype=np.int64))
    np.testing.assert_array_equal(session.run(typed), session.run(feed([[1, 2]])))


def test_an_input_the_feed_lacks_is_named(tmp_path):
    session = opened(save(tmp_path / "m.onnx"))
    with pytest.raises(UsageError, match="asks for 'attention_mask', the feed has input_ids"):
        session.run({"input_ids": np.ones((1, 2), dtype=np.int64)})


def test_a_feed_the_graph_cannot_take_is_named_by_its_shape(tmp_path, capfd):
    session = opened(save(tmp_path / "m.onnx"))
    with pytest.raises(StepError, match=r"shape 1 x 2.*out of data bounds"):
        session.run(feed([[1, 99]]))
    assert capfd.readouterr() == ("", "")


def damaged():
    whole = onnx.parser.parse_model(GRAPH).SerializeToString()
    return {
        "foreign": b"PK\x03\x04 this is something else entirely",
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "text": b"<html>404 not found</html>",
    }


@pytest.mark.parametrize("kind", sorted(damaged()))
def test_a_damaged_file_is_refused_in_one_sentence_and_nothing_is_printed(tmp_path, capfd, kind):
    path = tmp_path / "m.onnx"
    path.write_bytes(damaged()[kind])
    with pytest.raises(IntegrityError) as caught:
        opened(path)
    assert caught.value.message.startswith(f"{path}: not a whole ONNX model: ")
    assert "\n" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)
    assert "Load model from" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("left", [0, 20])
def test_a_file_whose_external_weights_are_cut_or_gone_is_not_whole(tmp_path, capfd, left):
    path, weights = tmp_path / "m.onnx", tmp_path / "m.onnx_data"
    model = onnx.parser.parse_model(GRAPH)
    # Only raw bytes can lie outside.
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(TABLE, "table"))
    onnx.save(model, str(path), save_as_external_data=True, location=weights.name, size_threshold=0)
    opened(path).close()
    weights.write_bytes(weights.read_bytes()[:left])
    if not left:
        weights.unlink()
    with pytest.raises(IntegrityError, match=r"m\.onnx: not a whole ONNX model"):
        opened(path)
    assert capfd.readouterr() == ("", "")


def test_a_folder_is_not_an_onnx_file(tmp_path):
    with pytest.raises(UsageError, match=r"a folder, onnxruntime opens an \.onnx file"):
        opened(tmp_path)


def test_an_operator_this_onnxruntime_lacks_is_named(tmp_path, capfd):
    unknown = GRAPH.replace("Mul(", "Mulberry(")
    with pytest.raises(UsageError, match=r"onnxruntime .* cannot run it: .*Mulberry"):
        opened(save(tmp_path / "m.onnx", unknown))
    assert capfd.readouterr() == ("", "")


def test_inputs_that_are_not_int64_are_refused_before_running(tmp_path):
    narrow = GRAPH.replace("int64[B,N] attention_mask", "int32[B,N] attention_mask")
    with pytest.raises(UsageError, match=r"'attention_mask' is tensor\(int32\)"):
        opened(save(tmp_path / "m.onnx", narrow))


def test_among_several_outputs_the_logits_are_read(tmp_path):
    both = GRAPH.replace("(float[B,3] logits)", "(float[B,N,3] hidden, float[B,3] logits)").replace(
        "kept = Mul", "hidden = Identity(rows)\n  kept = Mul"
    )
    assert opened(save(tmp_path / "m.onnx", both)).run(feed([[0, 1]])).shape == (1, 3)


def test_several_outputs_without_logits_are_refused(tmp_path):
    hidden = GRAPH.replace(
        "(float[B,3] logits)", "(float[B,N,3] hidden, float[B,3] pooled)"
    ).replace("kept = Mul", "hidden = Identity(rows)\n  kept = Mul")
    hidden = hidden.replace("logits = Reduce", "pooled = Reduce")
    with pytest.raises(UsageError, match="no output is called 'logits', found hidden, pooled"):
        opened(save(tmp_path / "m.onnx", hidden))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_session_uses_the_threads_it_was_given_and_they_do_not_spin(tmp_path, threads):
    session = opened(save(tmp_path / "m.onnx"), threads)
    options = session._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (threads, 1)
    if threads > 1:
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
