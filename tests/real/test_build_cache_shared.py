"""dockerd's classic builder on a data root that lamella has built in: every step comes from lamella's cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.building import Builder, import_base, write_context
from tests.support.dockerd import Dockerd

pytestmark = pytest.mark.xdist_group("build-conformance")

DOCKERFILE = """\
ARG V=latest
FROM base:$V
ARG who=world
ENV a=b c="d e"
LABEL x=y
RUN echo $who > /hello
RUN true
WORKDIR /w
EXPOSE 80 443/udp
VOLUME /v
HEALTHCHECK --interval=5s --retries=3 CMD true
SHELL ["/bin/sh", "-ec"]
RUN echo more >> /hello
STOPSIGNAL SIGUSR1
ONBUILD RUN echo later
USER alice
CMD ["cat", "/hello"]
ENTRYPOINT ["/bin/sh"]
"""


def test_dockerd_takes_every_step_from_lamellas_cache(store_root: Path, tmp_path: Path, base_tar: Path) -> None:
    builder = Builder(store_root)
    import_base(builder.store, base_tar)
    context = write_context(tmp_path / "context", DOCKERFILE)
    image = builder.build(context).image_id
    with Dockerd(store_root) as docker:
        told = docker.run("build", "-t", "again:1", str(context))
        assert told.count("Using cache") == 16
        assert "Running in" not in told
        assert docker.inspect("again:1")["Id"] == image
        assert (
            docker.run("run", "--rm", "--network", "none", "--entrypoint", "cat", "again:1", "/hello") == "world\nmore"
        )
        (context / "Dockerfile").write_text(DOCKERFILE + "ENV new=1\n")
        told = docker.run("build", "-t", "further:1", str(context))
        assert told.count("Using cache") == 16
    fresh = Builder(store_root)
    assert fresh.store.images.get(fresh.store.resolve("further:1")).parent == image
    assert fresh.build(context, tags=("further:2",)).image_id
    # 20.10 marks nothing as built here, so its step is done again and all before it are not.
    assert fresh.hits == 16
