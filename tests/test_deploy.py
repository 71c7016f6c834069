"""deploy/ and serving/config: what can be checked without a cluster, Docker or TensorFlow Serving."""

import re
from pathlib import Path

import pytest
import yaml
from dockerfiles import read_stages
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from serving.server import command as server
from serving.server.config import read_batching_parameters, read_model_config
from serving.server.metrics import ServerMetrics
from serving.server.proto_messages import add_field, define
from serving.server.rest import METRICS_PATH
from serving.warmup import BATCH_SIZES

ROOT = Path(__file__).resolve().parents[1]
DEPLOY, CONFIG = ROOT / "deploy", ROOT / "serving" / "config"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
STAGES = read_stages(ROOT / "Dockerfile")
GRPC, REST = 8500, 8501
SERVERS = ("tensorflow-serving", "embedded")
# Those of tensorflow_model_server 2.19 that we have a use for; it warns of others and goes on without them.
TF_SERVING_FLAGS = {
    "port", "rest_api_port", "model_config_file", "model_config_file_poll_wait_seconds", "monitoring_config_file",
    "file_system_poll_wait_seconds", "max_num_load_retries", "allow_version_labels_for_unavailable_models", "enable_batching",
    "batching_parameters_file", "grpc_max_threads", "grpc_channel_arguments", "ssl_config_file", "rest_api_timeout_in_ms",
    "tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism", "num_load_threads",
}  # fmt: skip
# As its Prometheus page has them; the others that we name are the embedded server's own.
TF_SERVING_METRICS = {":tensorflow:cc:saved_model:load_attempt_count", "up"}


def manifests(name: str) -> dict[str, dict]:
    return {one["kind"]: one for one in yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text())}


def deployment(name: str) -> tuple[dict, dict]:
    pod = manifests(f"{name}.yaml")["Deployment"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    return pod, container


def flags(words: list[str]) -> dict[str, str]:
    return dict(re.fullmatch(r"--(\w+)=(.+)", word).groups() for word in words)


def server_flags() -> dict[str, dict[str, str]]:
    return {
        "Dockerfile": flags(STAGES["tf-serving"].words("ENTRYPOINT")[1:]),
        "compose": flags(COMPOSE["services"]["tensorflow-serving"]["command"]),
        "kubernetes": flags(deployment("tensorflow-serving")[1]["args"]),
    }


# TensorFlow Serving's own files.


def test_the_model_config_names_what_the_images_mount():
    [model] = read_model_config(CONFIG / "models.config")
    assert (model.name, str(model.base_path), model.latest, model.labels) == ("clicks", "/models/clicks", 1, ())


def test_batches_hold_the_largest_warm_up_request():
    parameters = read_batching_parameters(CONFIG / "batching.config")
    assert parameters.max_batch_size >= max(BATCH_SIZES)
    assert not parameters.pad_variable_length_inputs  # wrong answers for callers who do not know how to begin a list


def monitoring_config():
    """An empty MonitoringConfig: its protocol file is not among those that tensorflow-serving-api has."""
    file = descriptor_pb2.FileDescriptorProto(name="monitoring.proto", package="tensorflow.serving", syntax="proto3")
    prometheus = file.message_type.add(name="PrometheusConfig")
    add_field(prometheus, "enable", 1, FieldDescriptorProto.TYPE_BOOL)
    add_field(prometheus, "path", 2, FieldDescriptorProto.TYPE_STRING)
    add_field(file.message_type.add(name="MonitoringConfig"), "prometheus_config", 1, FieldDescriptorProto.TYPE_MESSAGE,
              of=".tensorflow.serving.PrometheusConfig")  # fmt: skip
    return define(file)["MonitoringConfig"]()


def test_both_servers_have_their_metrics_under_one_path():
    config = text_format.Parse((CONFIG / "monitoring.config").read_text(), monitoring_config()).prometheus_config
    [scraped] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert config.enable and config.path == METRICS_PATH == scraped["metrics_path"]


@pytest.mark.parametrize("place", ["Dockerfile", "compose", "kubernetes"])
def test_tensorflow_serving_knows_its_flags(place):
    given = server_flags()[place]
    assert given.keys() <= TF_SERVING_FLAGS
    for path in (value for name, value in given.items() if name.endswith("_file")):
        assert (CONFIG / Path(path).relative_to("/etc/dgenctr")).is_file()


def test_compose_and_image_start_tensorflow_serving_alike():
    assert server_flags()["compose"] == server_flags()["Dockerfile"]
    service = COMPOSE["services"]["tensorflow-serving"]
    assert service["entrypoint"] == STAGES["tf-serving"].words("ENTRYPOINT")[:1] and service["image"] == STAGES["tf-serving"].base
    assert service["healthcheck"]["test"][-1] == STAGES["tf-serving"].words("HEALTHCHECK")[-1]


# Compose.


def test_compose_has_one_server_at_a_time_and_prometheus_with_either():
    profiles = {name: service["profiles"] for name, service in COMPOSE["services"].items()}
    assert profiles == {"tensorflow-serving": ["tensorflow-serving"], "embedded": ["embedded"], "prometheus": list(SERVERS)}


def test_only_this_machine_reaches_what_compose_starts():
    published = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert sorted(set(published)) == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501", "127.0.0.1:9090:9090"]


@pytest.mark.parametrize("name", SERVERS)
def test_servers_of_compose_write_nothing(name):
    service = COMPOSE["services"][name]
    assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"].split(":")[0] == STAGES["serving"].last("USER")
    assert all(mount.endswith(":ro") for mount in service["volumes"])


def test_files_that_compose_mounts_are_there():
    mounts = [mount for service in COMPOSE["services"].values() for mount in service["volumes"] if mount.startswith(".")]
    assert len(mounts) == 4 and all((DEPLOY / mount.split(":")[0]).exists() for mount in mounts)
    rules = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["rule_files"]
    assert any(mount.endswith(f"/etc/prometheus/{rules[0]}:ro") for mount in mounts)


def test_prometheus_asks_the_server_by_its_name_in_compose():
    [scraped] = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    [host, port] = scraped["static_configs"][0]["targets"][0].split(":")
    assert all(host in COMPOSE["services"][name]["networks"]["default"]["aliases"] for name in SERVERS) and int(port) == REST


def test_compose_gives_the_embedded_server_time_to_drain():
    service = COMPOSE["services"]["embedded"]
    given = server._parse(service["command"])
    assert given.shutdown_delay_seconds + given.drain_seconds < int(service["stop_grace_period"].removesuffix("s"))
    assert service["build"] == {"context": "..", "target": "serving"} and service["image"] == "dgenctr-serving:0.1.0"


# Alerts.


def rules() -> list[dict]:
    [group] = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return group["rules"]


def test_alerts_ask_for_metrics_that_there_are():
    metrics = ServerMetrics()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\w+)$", metrics.text(), flags=re.MULTILINE))
    source = (ROOT / "serving" / "server" / "served_models.py").read_text()  # gauges of the models
    known = {*kinds, *TF_SERVING_METRICS, *re.findall(r'"(dgenctr_serving_\w+)"', source)}
    known |= {f"{name}_bucket" for name, kind in kinds.items() if kind == "histogram"}
    for rule in rules():
        named = set(re.findall(r"(?<!\w)(?::tensorflow[\w:]+|dgenctr_\w+|up)\b", rule["expr"]))
        assert named and named <= known, rule["alert"]


def test_every_alert_says_what_it_means_and_the_page_what_to_do():
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 5
    for rule in rules():
        assert rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "ticket")
        assert f"`{rule['alert']}`" in page
    statuses = set(re.findall(r"\b[A-Z]+_?[A-Z]+\b", " ".join(rule["expr"] for rule in rules() if "status=~" in rule["expr"])))
    assert statuses <= {code.name for code in server_codes()}


def server_codes():
    import grpc

    return grpc.StatusCode


# Kubernetes.


@pytest.mark.parametrize(("name", "target"), [("embedded", "serving"), ("tensorflow-serving", "tf-serving")])
def test_each_deployment_is_guarded(name, target):
    pod, container = deployment(name)
    assert container["image"] == f"registry.example/dgenctr-{target}:0.1.0"
    assert pod["securityContext"]["runAsNonRoot"] and str(pod["securityContext"]["runAsUser"]) == STAGES[target].last("USER")
    assert pod["automountServiceAccountToken"] is False
    inside = container["securityContext"]
    assert inside["readOnlyRootFilesystem"] and not inside["allowPrivilegeEscalation"] and inside["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {"grpc": GRPC, "rest": REST}


@pytest.mark.parametrize("name", SERVERS)
def test_each_deployment_is_probed(name):
    _, container = deployment(name)
    startup, ready, alive = (container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness"))
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
    assert alive["tcpSocket"] == {"port": "grpc"}
    wanted = {"grpc": {"port": GRPC, "service": "clicks"}} if name == "embedded" else {"httpGet": {"path": "/v1/models/clicks/metadata", "port": "rest"}}
    assert wanted.items() <= ready.items()


@pytest.mark.parametrize("name", SERVERS)
def test_mounts_are_volumes_and_exports_are_read_only(name):
    pod, container = deployment(name)
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}
    [exports] = [one for one in container["volumeMounts"] if one["name"] == "exports"]
    assert exports == {"name": "exports", "mountPath": "/models", "readOnly": True}
    claim = next(one for one in pod["volumes"] if one["name"] == "exports")["persistentVolumeClaim"]["claimName"]
    assert claim == manifests("common.yaml")["PersistentVolumeClaim"]["metadata"]["name"]


def test_kubernetes_gives_the_embedded_server_time_to_drain():
    pod, container = deployment("embedded")
    given = server._parse(container["args"])
    assert given.shutdown_delay_seconds + given.drain_seconds < pod["terminationGracePeriodSeconds"]
    assert given.shutdown_delay_seconds > container["readinessProbe"]["periodSeconds"] * container["readinessProbe"]["failureThreshold"]


def test_the_shared_objects_select_the_servers():
    common = manifests("common.yaml")
    for name in SERVERS:
        labels = manifests(f"{name}.yaml")["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert common["Service"]["spec"]["selector"] == labels
        for kind, key in (("NetworkPolicy", "podSelector"), ("PodDisruptionBudget", "selector")):
            assert common[kind]["spec"][key] == {"matchLabels": labels}
    assert [(port["name"], port["port"]) for port in common["Service"]["spec"]["ports"]] == [("grpc", GRPC), ("rest", REST)]
