# One image for every process of the platform: Ray's head and workers, jobs, and the MLflow server.
#
#   docker build -t prerank .                                             CPU
#   docker build -t prerank:cuda --build-arg TORCH_BACKEND=cu130 .        CUDA
#
# torch brings CUDA's libraries; the host needs its driver and the container toolkit alone.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
# As uv names the builds of torch, whose indices it knows.
ARG TORCH_BACKEND=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/prerank/bin:$PATH
RUN python -m venv /opt/prerank
WORKDIR /build
# torch first and alone, as in `make install`: nothing else then pulls another build.
RUN pip install "uv>=0.9,<1" \
    && uv pip install --no-cache --python /opt/prerank/bin/python --torch-backend "$TORCH_BACKEND" "torch>=2.13,<2.14" \
    && pip uninstall -y uv
# Dependencies in a layer of their own: a change of the code does not install them again.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir interactrank platform \
    && pip install -c constraints.txt ".[serve,train,tune,otel,s3,delta,iceberg,mlflow-server]"
COPY interactrank interactrank
COPY platform platform
RUN pip install --no-deps --force-reinstall .

FROM python:${PYTHON}-slim
# Ray takes a user's home for its token; KubeRay's security contexts name the same number.
# A volume takes the owner of the folder that it covers.
RUN groupadd --gid 1000 prerank \
    && useradd --uid 1000 --gid prerank --create-home prerank \
    && install -d -o prerank -g prerank /home/prerank/.cache
COPY --from=build /opt/prerank /opt/prerank
COPY feature_repo /srv/prerank/feature_repo
COPY deployments /srv/prerank/deployments
ENV PATH=/opt/prerank/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PRERANK_FEATURE_REPO=/srv/prerank/feature_repo \
    PRERANK_PROGRESS=0 \
    # What `prerank env` sets besides the places of the services.
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_HAPROXY_RETRY_ON="conn-failure empty-response" \
    RAY_SERVE_HAPROXY_TUNE_BUFSIZE=262144 \
    RAY_SERVE_HAPROXY_TIMEOUT_CONNECT_S=1 \
    RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S=2 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=prerank.serving.proxy:middlewares \
    FEAST_USAGE=False \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
USER 1000:1000
WORKDIR /srv/prerank
# Of the process that most containers of this image are: Serve's proxy. Others replace it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/-/healthz', timeout=4)"]
CMD ["prerank", "--help"]
