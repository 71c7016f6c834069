"""The gRPC services: PredictionService and ModelService, with TensorFlow Serving's status codes."""

import functools

import grpc
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.models import ServedVersions, refuse_label
from serving.servable import StatusError, invalid

METADATA_FIELD = "signature_def"


def _with_status(method):
    """Turns a StatusError of a service method into the status of its call."""

    @functools.wraps(method)
    def call(self, request, context):
        try:
            return method(self, request)
        except StatusError as error:
            context.abort(error.code, str(error))

    return call


def _named_spec(request) -> model_pb2.ModelSpec:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    if not request.model_spec.name:
        raise invalid("ModelSpec has no name specified.")
    return request.model_spec


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers Predict and GetModelMetadata from the live version of one model."""

    def __init__(self, model: ServedVersions):
        self._model = model

    @_with_status
    def Predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        return self._model.servable(_named_spec(request)).predict(request)

    @_with_status
    def GetModelMetadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        if not request.metadata_field:
            raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != METADATA_FIELD:
                raise invalid(f"Metadata field {field} is not supported")
        servable = self._model.servable(_named_spec(request))
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = servable.name
        response.model_spec.version.value = servable.version
        response.metadata[METADATA_FIELD].Pack(servable.metadata())
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Answers GetModelStatus: the state of every version that was seen."""

    def __init__(self, model: ServedVersions):
        self._model = model

    @_with_status
    def GetModelStatus(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        spec = _named_spec(request)
        refuse_label(spec)
        statuses = self._model.statuses() if spec.name == self._model.name else {}
        if spec.HasField("version"):
            statuses = {version: status for version, status in statuses.items() if version == spec.version.value}
            missing = f"Could not find version {spec.version.value} of model {spec.name}"
        else:
            missing = f"Could not find any versions of model {spec.name}"
        if not statuses:
            raise StatusError(grpc.StatusCode.NOT_FOUND, missing)
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, status in statuses.items():
            entry = response.model_version_status.add(version=version, state=status.state)
            if status.error:
                entry.status.error_code = status.error.code.value[0]
                entry.status.error_message = str(status.error)
        return response
