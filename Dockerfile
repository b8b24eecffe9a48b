# docker build -t asr . && docker run --rm --read-only --tmpfs /tmp -p 127.0.0.1:8000:8000 -e ASR_API_KEY=... asr
# tests/serve/test_deploy.py runs the same steps without Docker.
FROM python:3.12-slim

ENV PYTHONDONTWRITEBYTECODE=1 NUMBA_CACHE_DIR=/var/cache/asr
RUN --mount=type=bind,target=/src,rw \
    pip install --no-cache-dir --constraint /src/constraints.txt '/src[serve]'
# The decoder is compiled here, once, and not by each container; whoever runs it may read the result.
RUN asr warm-up && chmod -R a+rX /var/cache/asr

USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-c", \
    "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
# Needs ASR_API_KEY or --key-file, because other machines reach it.
ENTRYPOINT ["asr", "serve", "--host", "0.0.0.0"]
