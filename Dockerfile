# One image for every process: `python -m gateway`, `session_worker`, `callback_worker`, and `python -m ops`.
FROM python:3.13-slim

# For builds behind a mirror (`docker build --build-arg PIP_INDEX_URL=...`); empty means pip's own default.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin voltline

WORKDIR /app

# Dependencies change seldom: their layer is built again only when the lock file is another. Wheels only, so that no
# compiler is ever needed.
COPY requirements.lock ./
RUN pip install --require-hashes --only-binary :all: -r requirements.lock

COPY shared ./shared
COPY gateway ./gateway
COPY session_worker ./session_worker
COPY callback_worker ./callback_worker
COPY ops ./ops
RUN python -m compileall -q .

USER voltline
CMD ["python", "-m", "gateway"]
