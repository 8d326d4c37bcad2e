# An environment for nodes without conda; the repository itself is mounted. Not built by the project's own tests.
#   CPU:   docker build -t contrastmask .
#   CUDA:  docker build -t contrastmask --build-arg CUDA=13-0 --build-arg TORCH_CUDA_ARCH_LIST="8.0;9.0" .
#   run:   docker run --rm -it --gpus all --shm-size 8g -v "$PWD":/work -w /work contrastmask make doctor
# CUDA is a version as NVIDIA's packages spell it, of the same major version as the CUDA build of torch that pip finds.
FROM python:3.11-bookworm

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
