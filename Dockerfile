# The worker and every other command: docker run touchstream COMMAND
FROM python:3.11.13-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /app

COPY requirements.lock ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r requirements.lock

# stream/topics.yaml is a link to the file beside it, so both go.
COPY topics.yaml ./
COPY stream stream
COPY tables tables

# A volume over var takes its owner from here.
RUN useradd --uid 10001 --no-create-home touchstream && mkdir var && chown touchstream var
USER 10001

ENTRYPOINT ["python", "-m", "stream"]
CMD ["worker"]
