# The image in which CPU reports can be made: docker build -f docker/cpu.Dockerfile -t toolchain .
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends make g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /toolchain
COPY pyproject.toml constraints.txt README.md LICENSE Makefile ./
COPY toolchain toolchain
COPY targets targets
RUN pip install --no-cache-dir -c constraints.txt .
ENTRYPOINT ["toolchain"]
