# Two images, both for Linux on x86-64 (tfx-bsl has no other Linux wheels), both run by a normal user:
#
#   docker build --target trainer -t dgenctr-trainer .
#   docker run --rm -v "$PWD/data:/data" -v "$PWD/models:/models" dgenctr-trainer \
#       trainer.task --stage=finetune --data_dir=/data/log --model_dir=/models/first
#
#   docker build --target serving -t dgenctr-serving .
#   docker run --rm -p 8500:8500 -p 8501:8501 -v "$PWD/exports/clicks:/models/clicks:ro" dgenctr-serving
#
# The mounted folders must be readable (for the trainer writable) for user 10001, or add `--user "$(id -u)"`.

FROM python:3.11.13-slim-bookworm AS trainer

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /opt/dgenctr
# The lock file first: the large layer is built again only when a version changes.
COPY requirements.lock ./
RUN pip install --require-hashes --requirement requirements.lock
COPY setup.py README.md ./
COPY preprocessing ./preprocessing
COPY trainer ./trainer
COPY serving ./serving
RUN pip install --no-deps --no-build-isolation .
COPY configs ./configs

# HOME is writable for any --user, because TensorBoard and matplotlib keep small caches there.
ENV HOME=/tmp
RUN useradd --uid 10001 --no-create-home --home-dir /tmp dgenctr && install --directory --owner=10001 /data /models
USER 10001
ENTRYPOINT ["python", "-m"]
CMD ["trainer.task", "--help"]


FROM tensorflow/serving:2.19.1 AS serving

COPY serving/config /etc/dgenctr
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent serving && install --directory --owner=10001 /models/clicks
USER 10001
EXPOSE 8500 8501

# The image has neither curl nor Python: bash asks the REST port itself. Healthy means that a version answers.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["/bin/bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8501 && printf 'GET /v1/models/clicks HTTP/1.0\\r\\n\\r\\n' >&3 && grep -q AVAILABLE <&3"]

# max_num_load_retries=0: a version that does not load is given up at once; otherwise it blocks newer ones for minutes.
# Flags given to `docker run IMAGE` are added, for example
#   --enable_batching=true --batching_parameters_file=/etc/dgenctr/batching.config
ENTRYPOINT ["/usr/bin/tensorflow_model_server", "--port=8500", "--rest_api_port=8501", \
    "--model_config_file=/etc/dgenctr/models.config", "--monitoring_config_file=/etc/dgenctr/monitoring.config", \
    "--file_system_poll_wait_seconds=1", "--max_num_load_retries=0"]
