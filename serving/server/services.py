"""The gRPC services of TensorFlow Serving: PredictionService and ModelService, by their official stubs."""

from collections.abc import Callable

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.server.handlers import Handlers
from serving.server.status import StatusError, sendable


def _method(answer: Callable):
    """A service method that answers by a handler's; a StatusError becomes the status of its call."""

    def method(self, request, context: grpc.ServicerContext):
        try:
            return answer(self.handlers, request)
        except StatusError as error:
            context.abort(error.code, sendable(str(error)))

    return method


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Inference and the signatures of a model."""

    def __init__(self, handlers: Handlers):
        self.handlers = handlers

    Predict = _method(Handlers.predict)
    Classify = _method(Handlers.classify)
    Regress = _method(Handlers.regress)
    MultiInference = _method(Handlers.multi_inference)
    GetModelMetadata = _method(Handlers.metadata)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """The states of versions, and another list of models."""

    def __init__(self, handlers: Handlers):
        self.handlers = handlers

    GetModelStatus = _method(Handlers.status)
    HandleReloadConfigRequest = _method(Handlers.reload)
