# Every target sets itself up: tests/setup.sh says what is missing and installs it, and leaves alone what is there.
# `make test TESTS="tests/test_plan.py -k diff"` hands its words to pytest.
python := .venv/bin/python

.PHONY: help demo test check bench deb vagrant-test clean

help:
	@echo 'make demo   a client, a director and two real servers: balanced, changed under load, cleared'
	@echo '            (make demo ENGINE=ipvs: with IPVS, in a guest kernel where this one has none)'
	@echo 'make test   the whole suite; what needs IPVS runs in a guest kernel where this one has none'
	@echo 'make check  ruff, mypy --strict and the law of the layers; needs no root'
	@echo 'make bench  kernlb beside its peers, in one run'
	@echo 'make deb    a Debian package in dist/'
	@echo 'make vagrant-test  six machines by Vagrant and Ansible, proven and taken away; no KVM needed'
	@echo 'make clean  removes what the other targets made here (not the Debian packages)'

demo:
	@tests/setup.sh demo $(ENGINE)
	@$(if $(ENGINE),$(python) -m tests.vm --unless-ipvs --) .venv/bin/kernlb demo $(if $(ENGINE),--engine $(ENGINE))

test:
	@tests/setup.sh test
	@$(python) -m pytest $(TESTS)

check:
	@tests/setup.sh check
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy --strict -p kernlb -p tests.vm -m tests.features
	@$(python) -m pytest -q tests/test_layers.py

bench:
	@tests/setup.sh bench
	@$(python) -m bench

deb:
	@tests/setup.sh deb
	@debian/build dist

vagrant-test:
	@tests/setup.sh vagrant
	@$(python) -m tests.vagrant

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
