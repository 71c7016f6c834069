"""What a server answers, whichever protocol asks: each method takes a request message and returns its response.

Inference is limited to a number of concurrent calls and counted; every failure is a StatusError.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

from preprocessing.errors import UserError
from serving.server.config import model_configs
from serving.server.example_inference import classify, multi_inference, regress
from serving.server.metrics import ServerMetrics
from serving.server.served_models import ServedModels
from serving.server.status import StatusError, invalid

METADATA_FIELD = "signature_def"
GRPC, REST = "GRPC", "REST"
Answer = TypeVar("Answer")

log = logging.getLogger(__name__)


class Handlers:
    """Answers requests about the models of a server.

    Args:
      models: what is served.
      metrics: told of every inference call.
      max_concurrent_calls: inference calls under way at once; the next one is RESOURCE_EXHAUSTED.
    """

    def __init__(self, models: ServedModels, metrics: ServerMetrics, max_concurrent_calls: int):
        self._models = models
        self._metrics = metrics
        self._max_concurrent_calls = max_concurrent_calls
        self._places = threading.BoundedSemaphore(max_concurrent_calls)

    def predict(self, request: predict_pb2.PredictRequest, entrypoint: str = GRPC) -> predict_pb2.PredictResponse:
        return self._inference("Predict", entrypoint, request.model_spec.name, lambda: self._servable(request).predict(request))

    def classify(
        self, request: classification_pb2.ClassificationRequest, entrypoint: str = GRPC
    ) -> classification_pb2.ClassificationResponse:
        return self._inference(
            "Classify", entrypoint, request.model_spec.name, lambda: classify(self._servable(request), request)
        )

    def regress(self, request: regression_pb2.RegressionRequest, entrypoint: str = GRPC) -> regression_pb2.RegressionResponse:
        return self._inference("Regress", entrypoint, request.model_spec.name, lambda: regress(self._servable(request), request))

    def multi_inference(self, request: inference_pb2.MultiInferenceRequest) -> inference_pb2.MultiInferenceResponse:
        def answer() -> inference_pb2.MultiInferenceResponse:
            if not request.tasks:
                raise invalid("Inference request must have at least one task")
            return multi_inference(self._servable(request.tasks[0]), request)

        return self._inference("MultiInference", GRPC, request.tasks[0].model_spec.name if request.tasks else "", answer)

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != METADATA_FIELD:
                raise invalid(f"Metadata field {field} is not supported")
        servable = self._servable(request)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        servable.fill_spec(response.model_spec)
        response.metadata[METADATA_FIELD].Pack(servable.metadata)
        return response

    def status(self, request: get_model_status_pb2.GetModelStatusRequest) -> get_model_status_pb2.GetModelStatusResponse:
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, status in self._models.statuses(_named_spec(request)).items():
            entry = response.model_version_status.add(version=version, state=status.state)
            entry.status.error_code = status.error.code.value[0] if status.error else 0
            entry.status.error_message = str(status.error) if status.error else ""
        return response

    def reload(self, request: model_management_pb2.ReloadConfigRequest) -> model_management_pb2.ReloadConfigResponse:
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
            )
        try:
            self._models.reload(model_configs(request.config, "the request"))
        except UserError as error:
            raise invalid(str(error)) from error
        log.info("now serving %s", ", ".join(self._models.models))
        return model_management_pb2.ReloadConfigResponse()

    def input_types(self, spec: model_pb2.ModelSpec, signature_name: str) -> dict[str, int]:
        """Input -> dtype of a signature, for a protocol that does not say the types itself.

        Raises:
          StatusError: no such model or version, INVALID_ARGUMENT for an unknown signature.
        """
        signature = self._models.servable(spec).signatures.get(signature_name)
        if signature is None:
            raise invalid(f'Serving signature name: "{signature_name}" not found in signature def')
        return signature.inputs

    @contextmanager
    def counting_refusals(self, model_name: str) -> Iterator[None]:
        """Counts a call that is refused before it becomes a request that a model is asked: by its status, as one that is asked."""
        try:
            yield
        except Exception as error:
            code = error.code if isinstance(error, StatusError) else grpc.StatusCode.INTERNAL
            self._metrics.requests.add(self._label(model_name), code.name)
            raise

    def _label(self, model_name: str) -> str:
        return model_name if model_name in self._models.models else ""

    def _servable(self, request):
        return self._models.servable(_named_spec(request))

    def _inference(self, api: str, entrypoint: str, model_name: str, answer: Callable[[], Answer]) -> Answer:
        started, code = time.perf_counter(), grpc.StatusCode.OK
        try:
            return self._within_limit(api, answer)
        except StatusError as error:
            code = error.code
            raise
        finally:
            name = self._label(model_name)
            self._metrics.requests.add(name, code.name)
            self._metrics.latency.observe((time.perf_counter() - started) * 1e6, name, api, entrypoint, code.name)

    def _within_limit(self, api: str, answer: Callable[[], Answer]) -> Answer:
        if not self._places.acquire(blocking=False):
            self._metrics.refused.add(api)
            raise StatusError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Concurrent call limit exceeded: {self._max_concurrent_calls} calls are under way; try again later, send fewer "
                "at once, or raise --max_concurrent_calls",
            )
        try:
            return answer()
        except StatusError:
            raise
        except MemoryError as error:
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server has not enough memory for this request") from error
        except Exception as error:
            log.exception("%s failed in the server itself", api)
            raise StatusError(grpc.StatusCode.INTERNAL, f"the server failed ({type(error).__name__}); see its log") from error
        finally:
            self._places.release()


def _named_spec(request) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.model_spec.name:
        raise invalid("ModelSpec has no name specified.")
    return request.model_spec
