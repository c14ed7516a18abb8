FROM python:3.11-slim
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY clover clover
COPY mig mig
COPY cli cli
COPY traces traces
RUN pip install --no-cache-dir -c constraints.txt . && useradd --uid 10001 clover
USER 10001
ENTRYPOINT ["clover"]
