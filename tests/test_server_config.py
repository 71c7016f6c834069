"""The files that say what a server serves: models, batching, certificates; and what users are told of mistakes."""

from pathlib import Path

import pytest
from certificates import Authority, key_pem
from cryptography.hazmat.primitives import serialization

from preprocessing.errors import UserError
from serving.server.config import BatchingParameters, ModelConfig, read_batching_parameters, read_model_config
from serving.server.tls import Certificates, ServerTls

TEMPLATES = Path(__file__).resolve().parents[1] / "serving" / "config"


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "file.config"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_models_policies_and_labels_are_read(written):
    path = written("""model_config_list {
      config { name: "a" base_path: "/models/a" model_platform: "tensorflow" }
      config { name: "b" base_path: "/models/b" model_version_policy { latest { num_versions: 2 } } }
      config { name: "c" base_path: "/models/c" model_version_policy { all {} } version_labels { key: "canary" value: 3 } }
      config { name: "d" base_path: "/models/d" model_version_policy { specific { versions: 4 versions: 2 } } }
    }""")
    assert read_model_config(path) == [
        ModelConfig("a", Path("/models/a"), by_operator=True),
        ModelConfig("b", Path("/models/b"), latest=2, by_operator=False),
        ModelConfig("c", Path("/models/c"), latest=0, labels=(("canary", 3),), by_operator=False),
        ModelConfig("d", Path("/models/d"), specific=(2, 4), by_operator=False),
    ]


def test_labels_alone_keep_the_highest_version(written):
    path = written('model_config_list { config { name: "a" base_path: "/a" version_labels { key: "x" value: 3 } } }')
    assert read_model_config(path) == [ModelConfig("a", Path("/a"), labels=(("x", 3),), by_operator=False)]


def one_model(more):
    return f'model_config_list {{ config {{ name: "a" base_path: "/a" {more} }} }}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no model: expected model_config_list"),
        ("model_config_list {}", "has no model: expected model_config_list"),
        ('model_config_list { config { name: "a" } }', "a `config` block needs `name` and `base_path`, received 'name: \"a\"'"),
        (one_model('model_platform: "torch"'), "model_platform must be 'tensorflow', received 'torch'"),
        (one_model('} config { name: "a" base_path: "/b"'), "several models of one name"),
        (one_model("model_version_policy { specific {} }"), "`specific` needs at least one version"),
        ("model_config_list { konfig {} }", r"is not a model config file .* has no field named \"konfig\""),
        (b"\xff", "is not a model config file"),
    ],
)  # fmt: skip
def test_a_wrong_model_config_is_told(written, text, message):
    with pytest.raises(UserError, match=message):
        read_model_config(written(text))


def test_batching_parameters_are_read(written):
    path = written("""max_batch_size { value: 128 } batch_timeout_micros { value: 0 } max_enqueued_batches { value: 7 }
      num_batch_threads { value: 3 } thread_pool_name { value: "own" } allowed_batch_sizes: 32 allowed_batch_sizes: 128
      pad_variable_length_inputs: true""")
    assert read_batching_parameters(path) == BatchingParameters(128, 0, 7, 3, (32, 128), True)
    assert read_batching_parameters(written("")) == BatchingParameters(1000, 0, 10, 0, (), False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1, received 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be at least 0, received -1"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be at least 1, received 0"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", r"and end with max_batch_size \(8\), received \[4\]"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: [8, 4, 8]", r"received \[8, 4, 8\]"),
        ("max_batch_size: 8", "is not a batching parameters file of TensorFlow Serving"),
        ("max_batch { value: 8 }", "has no field named \"max_batch\""),
    ],
)  # fmt: skip
def test_wrong_batching_parameters_are_told(written, text, message):
    with pytest.raises(UserError, match=message):
        read_batching_parameters(written(text))


def test_absent_files_are_told(tmp_path):
    with pytest.raises(UserError, match="none does not exist: expected a model config file, as TensorFlow Serving takes it"):
        read_model_config(tmp_path / "none")
    with pytest.raises(UserError, match="none does not exist: expected a batching parameters file"):
        read_batching_parameters(tmp_path / "none")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\): give the path of a model config file"):
        read_model_config(tmp_path)


def test_the_templates_of_this_repository_are_valid():
    assert read_model_config(TEMPLATES / "models.config")[0].name == "clicks"
    assert read_batching_parameters(TEMPLATES / "batching.config").max_batch_size > 0


# TLS files.


def test_wrong_tls_files_are_told(tmp_path):
    authority = Authority(tmp_path)
    (certificate, key), (_, other) = authority.sign("server"), authority.sign("other")
    assert ServerTls(certificate, key, authority.certificate).ssl_context()
    for tls, message in (
        (ServerTls(tmp_path / "none.pem", key), "the TLS file .*/none.pem does not exist: give PEM files"),
        (ServerTls(certificate, key, tmp_path / "no_ca.pem"), "the TLS file .*/no_ca.pem does not exist"),
        (ServerTls(certificate, other), "cannot be used .* --tls_key being the private key of --tls_cert"),
        (ServerTls(key, key), "cannot be used"),
        (ServerTls(certificate, key, key), "cannot be used"),
    ):
        with pytest.raises(UserError, match=message):
            tls.ssl_context()
        with pytest.raises(UserError, match=message):
            Certificates(tls)


def test_a_key_with_a_passphrase_is_told(tmp_path):
    certificate, key = Authority(tmp_path).sign("server")
    key.write_bytes(key_pem(serialization.load_pem_private_key(key.read_bytes(), None), b"secret"))
    with pytest.raises(UserError, match="the key is encrypted.*without a passphrase"):
        ServerTls(certificate, key).ssl_context()
