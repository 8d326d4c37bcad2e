# An environment for nodes without conda; the repository itself is mounted. Not built by the project's own tests.
#   CPU:   docker build -t contrastmask .
#   CUDA:  docker build -t contrastmask --build-arg CUDA=13-0 --build-arg TORCH_CUDA_ARCH_LIST="8.0;9.0" .
#   run:   docker run --rm -it --gpus all --shm-size 8g -v "$PWD":/work -w /work contrastmask make doctor
# It runs as a user without rights, whose number should be yours so that what it writes to the mounted folder is: add
#   --build-arg UID=$(id -u) --build-arg GID=$(id -g)
# The base is a full version. To hold its very bytes, ask for the digest once and give it:
#   docker buildx imagetools inspect python:3.11.14-bookworm      # the line "Digest: sha256:..."
#   docker build --build-arg BASE=python:3.11.14-bookworm@sha256:... -t contrastmask .
# CUDA is a version as NVIDIA's packages spell it, of the same major version as the CUDA build of torch that pip finds.
ARG BASE=python:3.11.14-bookworm
FROM ${BASE}

ARG CUDA=""
RUN if [ -n "$CUDA" ]; then \
        repository=https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64 \
        && curl -fsSL -o /tmp/keyring.deb "$repository/cuda-keyring_1.1-1_all.deb" \
        && dpkg -i /tmp/keyring.deb && rm /tmp/keyring.deb \
        && apt-get update && apt-get install -y --no-install-recommends "cuda-toolkit-$CUDA" \
        && rm -rf /var/lib/apt/lists/*; \
    fi

# No GPU is visible during a build, so the architectures must be given.
ARG TORCH_CUDA_ARCH_LIST=""
ENV VENV=/opt/contrastmask XDG_CACHE_HOME=/var/cache
WORKDIR /work
COPY Makefile environment.yml constraints.txt ./
COPY tools tools
COPY pipeline/__init__.py pipeline/compat.py pipeline/
RUN MMCV_CUDA=$([ -n "$CUDA" ] && echo 1 || echo 0) TORCH_CUDA_ARCH_LIST="$TORCH_CUDA_ARCH_LIST" make setup
ENV PATH=/opt/contrastmask/bin:$PATH

ARG UID=1000
ARG GID=1000
RUN (getent group "$GID" || groupadd --gid "$GID" contrastmask) \
    && (getent passwd "$UID" || useradd --uid "$UID" --gid "$GID" --create-home contrastmask) \
    && chown "$UID:$GID" /work "$VENV" "$VENV/.stamp"
# The stamp is theirs because `make` renews it where the mounted files are newer.
USER ${UID}:${GID}
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache
