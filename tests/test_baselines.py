"""Discriminative baselines: logits by hand, training in the harness of the others, and the same answers after loading."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from data_folders import schema_of, tiny_schema, write_data_folder

from preprocessing.errors import UserError
from trainer import task
from trainer.baselines import NETWORKS
from trainer.baselines.finalmlp import BilinearFusion, FeatureGate
from trainer.baselines.model import Baseline
from trainer.checkpoints import load_trained
from trainer.config import load_config
from trainer.data_folder import DataFolder
from trainer.doctor.model_folder import check_start
from trainer.doctor.patient import Patient
from trainer.loop import train
from trainer.memory import parameter_counts, predict
from trainer.models import build_model
from trainer.optimizers import build_optimizer
from trainer.prediction import Predictor

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["model.dcn.hidden_units=[16]", "model.dcn.cross_layers=1", "model.mlp.hidden_units=[16]",
         "model.finalmlp.first.hidden_units=[16]", "model.finalmlp.second.hidden_units=[8]", "model.finalmlp.heads=2",
         "model.finalmlp.gate_hidden_units=[4]", "model.finalmlp.first.gate_fields=[user]"]
IDS = tf.constant([[2, 3, 4], [5, 1, 0], [0, 0, 1]])
SEED = tf.constant([1, 2])


def settings_of(kind, *assignments):
    dim = [] if kind == "lr" else ["model.embedding_dim=4"]
    return [*SMALL, *dim, f"model.kind={kind}", *assignments]


def make(kind, *assignments, click_rate=0.5, schema=None):
    tf.keras.utils.set_random_seed(1)
    return build_model(schema or tiny_schema(), load_config(None, settings_of(kind, *assignments)), click_rate=click_rate)


def batch_for(seed=0):
    return {"ids": IDS, "label": tf.constant([1.0, 0.0, 1.0]), "seed": tf.constant([1, seed])}


# Logits by hand.


def two_fields(kind, table, *assignments):
    """A model of the fields a (values 0 to 2) and b (0 and 1) with this table of five rows."""
    model = make(kind, *assignments, click_rate=0.5, schema=tiny_schema({"a": 3, "b": 2}))
    model.embedding.table.assign(table)
    model.network.bias.assign(0.5)
    return model


def test_logistic_regression_adds_the_weights_of_the_values():
    model = two_fields("lr", [[1.0], [2.0], [3.0], [10.0], [20.0]])
    assert model.click_logits({"ids": tf.constant([[2, 1], [0, 0]])}).numpy().tolist() == [23.5, 11.5]


def test_factorization_machine_adds_the_products_of_pairs():
    # The last column holds the weights. Values 2 and 1: 3 + 5 + (1, 2) . (3, 4) = 19.
    table = [[0, 0, 1], [0, 0, 2], [1, 2, 3], [0, 0, 4], [3, 4, 5]]
    model = two_fields("fm", table, "model.embedding_dim=2")
    np.testing.assert_allclose(model.click_logits({"ids": tf.constant([[2, 1], [0, 0]])}), [19.5, 5.5])


def test_pairs_of_three_fields():
    # (1, 1) . (2, 0) + (1, 1) . (0, 3) + (2, 0) . (0, 3) = 2 + 3 + 0.
    network = make("fm", "model.embedding_dim=2").network
    values = tf.constant([[[1.0, 1.0, 0.0], [2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]])
    assert network.score(values, False, None).numpy().tolist() == [5.0]


def test_deepfm_adds_a_tower_on_the_embeddings_alone():
    # As the factorization machine above, 19.5, and relu(1 + 2 + 3 + 4) = 10 times 0.1.
    model = two_fields("deepfm", [[0, 0, 1], [0, 0, 2], [1, 2, 3], [0, 0, 4], [3, 4, 5]], "model.embedding_dim=2",
                       "model.mlp.hidden_units=[1]", "model.mlp.batch_norm=false")
    kernel, bias, head = model.network.weights[1:]
    kernel.assign(tf.ones_like(kernel)), bias.assign([0.0]), head.assign([[0.1]])
    np.testing.assert_allclose(model.click_logits({"ids": tf.constant([[2, 1]])}), [20.5])


def test_dcn_is_a_cross_tower_with_a_linear_head():
    # x = (1, 2); one cross with the identity: x * x + x = (2, 6); head (1, 10).
    model = two_fields("dcn_v2", [[0], [0], [1], [0], [2]], "model.embedding_dim=1", "model.dcn.hidden_units=[]")
    kernel, bias, head = model.network.weights[1:]
    kernel.assign(tf.eye(2)), bias.assign([0.0, 0.0]), head.assign([[1.0], [10.0]])
    np.testing.assert_allclose(model.click_logits({"ids": tf.constant([[2, 1]])}), [62.5])


def test_the_mlp_is_a_tower_with_a_linear_head():
    # relu(1 + 2) = 3 and relu(-1 - 2) = 0; head (2, 7).
    model = two_fields("mlp", [[0], [0], [1], [0], [2]], "model.embedding_dim=1", "model.mlp.hidden_units=[2]",
                       "model.mlp.batch_norm=false")
    kernel, bias, head = model.network.weights[1:]
    kernel.assign([[1.0, -1.0], [1.0, -1.0]]), bias.assign([0.0, 0.0]), head.assign([[2.0], [7.0]])
    np.testing.assert_allclose(model.click_logits({"ids": tf.constant([[2, 1]])}), [6.5])


def test_a_gate_lets_through_twice_the_sigmoid_of_its_fields():
    # Field 1 alone decides: e_1 = log 3 and a kernel of (1, 0) gives 2 sigmoid(log 3, 0) = (1.5, 1).
    gate = FeatureGate([1], hidden_units=[])
    values = tf.constant([[[4.0], [np.log(3.0)]]])
    gate(values)
    gate.set_weights([np.array([[1.0, 0.0]]), np.zeros(2)])
    np.testing.assert_allclose(gate(values), [[6.0, np.log(3.0)]], rtol=1e-6)


def test_a_gate_without_fields_is_the_same_for_all_samples():
    gate = FeatureGate([], hidden_units=[])
    values = tf.constant([[[4.0], [2.0]], [[1.0], [1.0]]])
    gate(values)
    gate.set_weights([np.ones((1, 1)), np.array([[np.log(3.0), 0.0]]), np.zeros(2)])
    np.testing.assert_allclose(gate(values), [[6.0, 2.0], [1.5, 1.0]], rtol=1e-6)


def test_the_fusion_is_bilinear_within_its_groups():
    # u . o_1 = 3, v . o_2 = 12; 2 * (1 * 1 * 5) in the first group, 3 * (2 * 1 * 7) in the second.
    fusion = BilinearFusion(heads=2)
    streams = tf.constant([[1.0, 2.0]]), tf.constant([[5.0, 7.0]])
    fusion(streams)
    bilinear, first, second = fusion.bilinear, fusion._first.kernel, fusion._second.kernel
    first.assign([[1.0], [1.0]]), second.assign([[1.0], [1.0]]), bilinear.assign([[[2.0]], [[3.0]]])
    np.testing.assert_allclose(fusion(streams), [3 + 12 + 10 + 42])


def test_a_group_mixes_its_own_elements_only():
    fusion = BilinearFusion(heads=1)
    streams = tf.constant([[1.0, 2.0]]), tf.constant([[5.0, 7.0, 11.0]])
    fusion(streams)
    fusion._first.kernel.assign([[0.0], [0.0]]), fusion._second.kernel.assign([[0.0]] * 3)
    fusion.bilinear.assign([[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]])
    np.testing.assert_allclose(fusion(streams), [1 * 11 + 2 * 5])


# What all have in common.


@pytest.mark.parametrize("kind", NETWORKS)
def test_an_untrained_model_says_the_click_rate(kind):
    model = make(kind, "model.embedding_init=0.0001", click_rate=0.2)
    np.testing.assert_allclose(model({"ids": IDS}), [0.2] * 3, atol=0.01)
    assert model.click_logits({"ids": IDS[:0]}).shape == (0,)
    np.testing.assert_allclose(model.click_logits({"ids": IDS[:1]}), model.click_logits({"ids": IDS})[:1], rtol=1e-5)


@pytest.mark.parametrize("kind", NETWORKS)
def test_one_step_moves_every_variable_and_only_rows_that_were_looked_up(kind):
    model = make(kind, "model.embedding_init=0.3", "model.mlp.batch_norm=false", "model.finalmlp.first.batch_norm=false",
                 "model.finalmlp.second.batch_norm=false", "model.dcn.batch_norm=false")
    model.optimizer = build_optimizer(model, 0.01, 0.0)
    before = {name: value.numpy().copy() for name, value in model.named_variables().items()}
    assert len(before) == len(model.variables)
    parts = tf.function(model.train_step)(batch_for())
    assert parts["gradient_norm"] > 0
    still = [name for name, value in model.named_variables().items() if np.array_equal(value, before[name])]
    assert still == []
    [table] = [name for name in before if name.endswith("table")]
    moved = np.flatnonzero(np.any(model.embedding.table.numpy() != before[table], axis=1))
    rows = model.embedding.table_rows(IDS).numpy()
    assert moved.tolist() == sorted(set(rows.ravel().tolist()))


@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind not in ("lr", "fm")])
def test_training_drops_out_by_the_seed_and_rounds_where_asked_to(kind):
    model = make(kind, "finetune.dropout=0.5", "runtime.matmul=float32", "model.embedding_init=1.0")
    again, other = (float(model.loss_parts(batch_for(seed), training=True)["loss"]) for seed in (0, 1))
    assert float(model.loss_parts(batch_for(0), training=True)["loss"]) == again != other
    plain, rounded = make(kind, "finetune.dropout=0", "runtime.matmul=float32"), make(kind, "finetune.dropout=0", "runtime.matmul=bfloat16")
    np.testing.assert_array_equal(plain.click_logits({"ids": IDS}), rounded.click_logits({"ids": IDS}))
    losses = [float(model.loss_parts(batch_for(), training=True)["loss"]) for model in (plain, rounded)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_network_can_be_compiled_by_xla():
    plain, compiled = make("fm"), make("fm", "runtime.xla=true")
    losses = [float(model.loss_parts(batch_for(), training=True)["loss"]) for model in (plain, compiled)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_both_streams_of_finalmlp_drop_out_for_themselves():
    # Streams that are alike but for their dropout would have alike outputs.
    network = make("finalmlp", "finetune.dropout=0.5", "model.finalmlp.first.gate_fields=[]", "model.finalmlp.first.hidden_units=[8]",
                   "model.finalmlp.first.batch_norm=false", "model.finalmlp.second.batch_norm=false").network
    for layers in (network._gates, network._towers):
        layers[1].set_weights(layers[0].get_weights())
    seen = []
    network._fusion = lambda streams: seen.extend(streams) or streams[0][:, 0]
    values = tf.random.stateless_normal((50, 3, 4), SEED)
    network.score(values, True, SEED)
    assert np.any(seen[0] != seen[1])
    network.score(values, False, None)
    np.testing.assert_allclose(seen[2], seen[3], rtol=1e-5)


LISTS = schema_of(
    {"user": {"kind": "categorical"}, "item": {"kind": "categorical"}, "tags": {"kind": "multivalued", "max_length": 2},
     "history": {"kind": "sequence", "vocabulary": "item", "max_length": 3}}, {"user": 12, "item": 22, "tags": 5})


@pytest.mark.parametrize("kind", NETWORKS)
def test_lists_are_tokens_like_other_fields(kind):
    assignments = ["model.embedding_init=0.5", "model.finalmlp.second.gate_fields=[history]"]
    model = make(kind, *assignments, schema=LISTS)
    table, others = parameter_counts(load_config(None, settings_of(kind, *assignments)), LISTS)
    assert table + others == sum(np.prod(variable.shape) for variable in model.variables)
    read = {"ids": tf.constant([[2, 3]] * 3), "tags": tf.constant([[2, -1], [3, -1], [2, -1]]),
            "history": tf.constant([[4, 5], [4, 5], [-1, -1]])}
    logits = model.click_logits(read).numpy()
    assert len(set(logits.tolist())) == 3
    longer = {**read, "tags": tf.pad(read["tags"], [[0, 0], [0, 2]], constant_values=-1)}
    np.testing.assert_allclose(model.click_logits(longer), logits, rtol=1e-5)


# In the harness.


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_data_folder(tmp_path_factory.mktemp("baselines") / "data")


def run_of(kind, epochs):
    return load_config(None, settings_of(kind, f"finetune.epochs={epochs}", "finetune.batch_size=64", "finetune.learning_rate=0.02",
                                         "finetune.learning_rate_schedule=plateau", "finetune.patience=5"))


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """The model folder of a network with all that baselines have: weights in the table, normalisation, dropout."""
    folder = tmp_path_factory.mktemp("trained") / "model"
    train("finetune", run_of("deepfm", 4), data_dir, folder, from_scratch=True)
    return folder


def test_a_baseline_is_trained_and_found_again(trained, data_dir):
    model = load_trained(trained)
    assert isinstance(model, Baseline)
    # A click follows from whether user + item is even: 0.8 is the best AUC there is.
    assert Predictor(model, DataFolder.open(data_dir)).validate()["auc"] > 0.7


def test_a_run_that_is_continued_is_the_run_that_was_never_stopped(trained, data_dir, tmp_path):
    for epochs in (2, 4):
        train("finetune", run_of("deepfm", epochs), data_dir, tmp_path / "model", from_scratch=True)
    whole, continued = load_trained(trained).named_variables(), load_trained(tmp_path / "model").named_variables()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, continued[name], err_msg=name)


ANSWER = """
import preprocessing
import sys
import numpy as np
import tensorflow as tf
for kind in sys.argv[2:]:
    model = tf.saved_model.load(f"{sys.argv[1]}/{kind}")
    np.save(f"{sys.argv[1]}/{kind}.npy", model.answer(tf.constant(np.load(f"{sys.argv[1]}/ids.npy"))))
"""


def exported(model, folder):
    """Saves click_logits of ids with the variables that it reads, as export does."""
    module = tf.Module()
    module.answer = tf.function(lambda ids: model.click_logits({"ids": ids}), input_signature=[tf.TensorSpec([None, 3], tf.int32)])
    module.click_variables = list(module.answer.get_concrete_function().graph.variables)
    tf.saved_model.save(module, str(folder))


def test_every_kind_answers_alike_after_export_and_in_a_new_process(tmp_path):
    ids = np.random.default_rng(1).integers(0, [12, 22, 6], (50, 3)).astype(np.int32)
    np.save(tmp_path / "ids.npy", ids)
    expected = {}
    for kind in NETWORKS:
        model = make(kind, "model.embedding_init=0.5")
        expected[kind] = model.click_logits({"ids": tf.constant(ids)}).numpy()
        exported(model, tmp_path / kind)
        loaded = tf.saved_model.load(str(tmp_path / kind))
        np.testing.assert_allclose(loaded.answer(tf.constant(ids)), expected[kind], atol=1e-5)
    done = subprocess.run([sys.executable, "-c", ANSWER, str(tmp_path), *expected], cwd=ROOT, capture_output=True, text=True,
                          check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for kind, logits in expected.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{kind}.npy"), logits, atol=1e-5, err_msg=kind)


def test_a_larger_network_is_predicted_to_take_more_memory():
    rows = {"train": 100_000, "valid": 1000}
    peaks = {kind: predict("finetune", load_config(None, settings_of(kind)), tiny_schema(), rows).peak for kind in NETWORKS}
    assert peaks["fm"] < peaks["deepfm"]
    assert peaks["mlp"] < peaks["dcn_v2"]
    assert peaks["mlp"] < peaks["finalmlp"]


# What is refused.


@pytest.mark.parametrize(("assignments", "message"), [
    (["model.kind=mlp", "model.backbone=hstu"], "`backbone` has no effect with `kind: mlp`"),
    (["model.kind=fm", "model.scoring.prior=none"], "`scoring` has no effect with `kind: fm`"),
    (["model.kind=fm", "model.mask_embedding=zero"], "`mask_embedding` has no effect with `kind: fm`"),
    (["model.kind=lr", "model.embedding_dim=8"], "`embedding_dim` has no effect with `kind: lr`, which has no embeddings"),
    (["model.kind=deepfm", "finetune.feature_mask_rate=0.1"], "`feature_mask_rate` has no effect with `model.kind: deepfm`"),
    (["model.kind=deepfm", "finetune.transfer=embeddings"], "`transfer` has no effect with `model.kind: deepfm`"),
    (["model.kind=lr", "finetune.dropout=0.5"], "`dropout` has no effect with `model.kind: lr`, which has no hidden layers"),
    (["model.kind=gbdt"], "model.kind: Input should be 'dgenctr', 'lr'"),
    (["model.finalmlp.heads=7"], "finalmlp.heads must divide the last hidden units of both streams, received 7 heads and 400 and 400"),
    (["model.finalmlp.first.hidden_units=[]"], "hidden_units: Tuple should have at least 1 item"),
])
def test_settings_without_effect_are_refused(assignments, message):
    with pytest.raises(UserError, match=message):
        load_config(None, assignments)


def test_a_gate_field_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="gate field 'movie' is no field that a model reads: expected some of user, item, hour"):
        make("finalmlp", "model.finalmlp.second.gate_fields=[movie]")


@pytest.mark.parametrize(("stage", "from_scratch"), [("pretrain", False), ("pretrain", True), ("finetune", False)])
def test_a_baseline_is_not_pretrained(data_dir, tmp_path, stage, from_scratch):
    with pytest.raises(UserError, match="`model.kind: fm` has no pre-training: train it with --stage=finetune --from_scratch"):
        train(stage, load_config(None, settings_of("fm")), data_dir, tmp_path / "model", from_scratch=from_scratch)
    assert not (tmp_path / "model").exists()
    with pytest.raises(UserError, match="model.kind fm has no pre-training"):
        build_model(tiny_schema(), load_config(None, settings_of("fm")), "pretrain")


def test_the_doctor_says_so_too(tmp_path):
    patient = Patient(model_dir=tmp_path, assignments=("model.kind=fm",))
    with pytest.raises(UserError, match="`model.kind: fm` has no pre-training"):
        check_start(patient)
    assert check_start(replace(patient, from_scratch=True)) == "without pre-training"


def test_a_baseline_is_not_carried_over(data_dir, trained, tmp_path):
    with pytest.raises(UserError, match="--init_from .* carries over models of `model.kind: dgenctr` alone, received `model.kind: fm`"):
        train("finetune", load_config(None, settings_of("fm")), data_dir, tmp_path / "model", init_from=trained)


def test_all_stages_from_the_command_line_say_what_is_missing(data_dir, tmp_path, capsys):
    code = task.main(["--stage=all", "--data_dir", str(data_dir), "--model_dir", str(tmp_path / "model"), "--set", "model.kind=fm"])
    assert code == 2
    assert "--stage=all --from_scratch" in capsys.readouterr().err
