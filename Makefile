# Each target is one line that calls a script or cargo; what it does stands there.
.PHONY: help demo build check test test-causes bench-accounting bench-agent bench-cost bench-hostile bench-metrics bench-sizing bench-truth fuzz mutants soak stack stack-down

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: ## build imaptrace and watch it find a slow FETCH; needs nothing but rustup, git and make
	@scripts/demo.sh

build: ## the program as it is shipped, target/release/imaptrace
	@scripts/need.sh build && cargo build --locked --release

check: ## formatting, lints, documentation, licences, scripts
	@scripts/check.sh

test: ## check, then all tests, real Dovecot, Collector, Jaeger and Prometheus among them
	@scripts/test.sh

test-causes: ## all causes of slowness, injected into a real Dovecot (CAUSES="dns loss", CAUSES_DIR); needs root, takes 20 minutes
	@scripts/test-causes.sh

bench-accounting: ## what the sampling of a mail server's processes costs
	@cargo bench --quiet --locked --bench accounting

bench-agent: ## CPU, memory and start lag with thousands of targets, and memory over an hour; prints tables
	@scripts/bench-agent.sh

bench-cost: ## what a run costs, beside other clients and a bare one, and a connection in flight; prints tables
	@scripts/bench-cost.sh

bench-hostile: ## memory, pace and deadlines against hostile servers, and what they do to good ones; prints tables
	@scripts/bench-hostile.sh

bench-metrics: ## what a run's measurements and a metric series cost
	@cargo bench --quiet --locked --bench metrics

bench-sizing: ## what the metrics of 120 to 2,400 accounts cost the Collector and Prometheus; prints a table, takes 12 minutes
	@scripts/backends.sh && cargo bench --quiet --locked --bench sizing

bench-truth: ## our times against a packet capture and Dovecot's own words; needs root and a quiet machine
	@scripts/bench-truth.sh

soak: ## ten minutes with everything wrong at once: hung mount, unread log, refusing receiver, full disk, pauses; needs root
	@scripts/soak.sh

mutants: ## random changes of the code (SEED, SAMPLE), and those that no test notices; takes hours
	@scripts/mutants.sh

fuzz: ## ten minutes of made-up bytes against each of the fuzz targets; prints a table
	@scripts/fuzz.sh

stack: ## a mail server, an agent and the back ends on this machine, without containers
	@scripts/stack.sh up

stack-down: ## end what `make stack` started
	@scripts/stack.sh down
