# A CPU image by default:     docker build -t frugalseg .
# For NVIDIA GPUs:            docker build -t frugalseg:gpu --build-arg TORCH_BACKEND=cu130 .
# Use it on this folder:      docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/data" frugalseg check photos
# With GPUs, which need NVIDIA's container toolkit: add `--gpus all`. Several loading processes need `--shm-size 4g`.
FROM python:3.13-slim AS build

# cpu, or one of PyTorch's builds for CUDA such as cu126 or cu130: what `uv pip install --torch-backend` takes.
ARG TORCH_BACKEND=cpu

RUN pip install --no-cache-dir uv && python -m venv /venv
WORKDIR /build

# The locked versions, without their hashes and CUDA's packages: another build of PyTorch is another file of the same version.
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN sed -n 's/ *\\$//; /^cuda-/d; /^nvidia-/d; /^[a-z]/p' requirements.lock > constraints.txt \
    && mkdir -p src/frugalseg && touch src/frugalseg/__init__.py \
    && uv pip install --no-cache --python /venv --torch-backend "$TORCH_BACKEND" --constraint constraints.txt . \
    && uv pip uninstall --python /venv frugalseg

COPY src src
RUN uv pip install --no-cache --python /venv --no-deps .

FROM python:3.13-slim
COPY --from=build /venv /venv
# Any user may start it, also one without an entry in /etc/passwd: every cache is below /cache. Mount a volume there to keep them.
ENV PATH=/venv/bin:$PATH HOME=/cache USER=user FRUGALSEG_CACHE=/cache/frugalseg TORCH_HOME=/cache/torch
RUN mkdir --mode 1777 /cache
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["frugalseg"]
CMD ["--help"]
