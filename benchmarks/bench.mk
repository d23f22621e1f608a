# Everything that is measured, for `make bench-quick` and `make bench`; docs/benchmarks.md explains each command.
# A result that is there is not measured again: make bench goes on where it was stopped. To renew one, delete it.

SHARED ?= ../shared
BENCH ?= bench
# torchvision's weights for LPIPS (scripts/lpips_trunk.py); without them that measure is left out.
LPIPS_ALEX ?=
LPIPS_VGG ?=
# The training run behind the bundle; where there is none, its networks as they are in the bundle.
RUN ?= $(BENCH)/run
# Packs of aligned faces that it was validated and trained with; without them the benchmarks that need one are left
# out, and the report says so.
FACES ?=
PACK ?=
# Folder with an anonymiser's public/; none is shipped, and without one it is left out.
ANONYMISER ?=

QUICK := build/bench-quick
COMMA := ,
BENCH_PYTHON := $(TEST_VENV)/bin/python
THRESHOLDS := benchmarks/results/thresholds.json
CELEBA := $(SHARED)/data/celeba
RECOGNIZERS := $(SHARED)/fr/cards.json
# The picture of the shipped bundle's target.
TARGET ?= $(SHARED)/data/synthetic/targets/omi_827.jpg
LPIPS := $(if $(LPIPS_ALEX),--lpips-alex $(LPIPS_ALEX)) $(if $(LPIPS_VGG),--lpips-vgg $(LPIPS_VGG))
BY_STRANGERS = --recognizers $(RECOGNIZERS) --target $(TARGET) --thresholds $(BENCH)/thresholds.json
OF_MORE := $(if $(FACES),latency latency_layers serving_int8) $(if $(PACK),peers eraser) \
	$(if $(LPIPS_ALEX),ablations) \
	$(if $(ANONYMISER),anonymiser anonymiser_curve photo_anonymiser serving_anonymiser \
	$(if $(PACK),reconstruction))

BENCH_RESULTS := $(addprefix $(BENCH)/,$(addsuffix .json,\
	thresholds target_choice efficacy owners robustness hardened photo serving serving_split serving_sweep \
	serving_overhead soak $(OF_MORE)))

.PHONY: bench bench-quick bench-report

## bench-quick: minutes, on packaged pictures and the shipped bundle; the report is in build/bench-quick/report
bench-quick: $(TEST_VENV)/stamp
	rm -rf $(QUICK)
	mkdir -p $(QUICK)/pictures
	cp examples/*.jpg tests/pictures/*.jpg $(QUICK)/pictures
	$(BENCH_PYTHON) -m benchmarks.efficacy pictures --images $(QUICK)/pictures --count 3 \
		--thresholds $(THRESHOLDS) --out $(QUICK)/results/efficacy.json
	$(BENCH_PYTHON) -m benchmarks.efficacy robustness --images $(QUICK)/pictures --count 3 \
		--thresholds $(THRESHOLDS) --out $(QUICK)/results/robustness.json
	$(BENCH_PYTHON) -m benchmarks.latency photo --picture examples/portrait.jpg --picture examples/group.jpg \
		--rounds 10 --cold-runs 2 --sweep-rounds 2 --batch 1 --batch 8 --batch 64 --out $(QUICK)/results/photo.json
	@if [ -x $(SERVE_VENV)/bin/perf_analyzer ]; then \
		$(BENCH_PYTHON) -m benchmarks.serving throughput --environment $(SERVE_VENV) --backend ort-cpu \
			--concurrency 1 --concurrency 8 --rounds 1 --out $(QUICK)/results/serving.json; \
	else \
		echo "Serving is left out: $(SERVE_VENV) has no server and load generator; run: make bench-env"; \
	fi
	$(BENCH_PYTHON) -m benchmarks.report --results $(QUICK)/results --out $(QUICK)/report

## bench: everything, for many hours; SHARED= has the pictures and recognisers, FACES= and PACK= the training's faces
bench: bench-env
	@$(if $(FACES),,echo "Left out without FACES=: latency, serving_int8";) \
		$(if $(PACK),,echo "Left out without PACK=: peers, eraser$(if $(ANONYMISER),$(COMMA) reconstruction)";) \
		$(if $(LPIPS_ALEX),,echo "Left out without LPIPS_ALEX=: ablations";) \
		$(if $(ANONYMISER),,echo "Left out without ANONYMISER=: anonymiser, anonymiser_curve, photo_anonymiser, serving_anonymiser, reconstruction")
	status=0; $(MAKE) --keep-going $(BENCH_RESULTS) || status=1; $(MAKE) bench-report && exit $$status

## bench-report: the report on whatever make bench has measured so far, in bench/report
bench-report: $(TEST_VENV)/stamp
	$(BENCH_PYTHON) -m benchmarks.report --results $(BENCH) --out $(BENCH)/report

$(BENCH_RESULTS): | $(TEST_VENV)/stamp

$(BENCH)/run: | $(TEST_VENV)/stamp
	$(BENCH_PYTHON) -m export.recover --bundle runtime/bundles/compact \
		--key-file runtime/bundles/compact/authority/demo.key --out $@

$(addprefix $(BENCH)/,ablations.json peers.json latency.json latency_layers.json int8): | $(RUN)

$(BENCH)/thresholds.json:
	$(BENCH_PYTHON) -m benchmarks.efficacy calibrate --lfw $(SHARED)/data/lfw/lfw-deepfunneled \
		--recognizers $(RECOGNIZERS) --out $@

$(BENCH)/target_choice.json: | $(BENCH)/thresholds.json
	$(BENCH_PYTHON) -m benchmarks.efficacy target-choice --candidates $(SHARED)/data/synthetic/targets \
		--celeba $(CELEBA) --recognizers $(RECOGNIZERS) --thresholds $(BENCH)/thresholds.json --out $@

$(BENCH)/efficacy.json: | $(BENCH)/thresholds.json
	$(BENCH_PYTHON) -m benchmarks.efficacy pictures --images $(SHARED)/data/celebahq --count 500 \
		$(BY_STRANGERS) $(LPIPS) --out $@

$(BENCH)/owners.json: | $(BENCH)/thresholds.json
	$(BENCH_PYTHON) -m benchmarks.efficacy owners --celeba $(CELEBA) --people 300 $(BY_STRANGERS) --out $@

$(BENCH)/robustness.json: | $(BENCH)/thresholds.json
	$(BENCH_PYTHON) -m benchmarks.efficacy robustness --images $(SHARED)/data/celebahq --count 100 \
		$(BY_STRANGERS) --out $@

$(BENCH)/hardened.json: | $(BENCH)/thresholds.json
	$(BENCH_PYTHON) -m benchmarks.efficacy harden --lfw $(SHARED)/data/lfw --recognizers $(RECOGNIZERS) \
		--name retail_0095 --folder $(BENCH)/hardened
	$(BENCH_PYTHON) -m benchmarks.efficacy hardened --folder $(BENCH)/hardened --images $(SHARED)/data/celebahq \
		--recognizers $(BENCH)/hardened/cards.json --thresholds $(BENCH)/hardened/thresholds.json \
		--target $(TARGET) --out $@

$(BENCH)/eraser.json: | $(BENCH)/thresholds.json
	$(BENCH_PYTHON) -m benchmarks.efficacy eraser --celeba $(CELEBA) --faces $(PACK) --folder $(BENCH)/eraser \
		$(BY_STRANGERS) $(LPIPS) --out $@

$(BENCH)/peers.json: | $(BENCH)/thresholds.json
	$(BENCH_PYTHON) -m benchmarks.efficacy peers --images $(SHARED)/data/celebahq --count 500 --run $(RUN) \
		--pack $(PACK) --peers-folder $(BENCH)/peers $(BY_STRANGERS) \
		$(if $(LPIPS_ALEX),--lpips-alex $(LPIPS_ALEX)) --out $(BENCH)/peers/so-far.json
	mv $(BENCH)/peers/so-far.json $@

$(BENCH)/ablations.json: | $(BENCH)/thresholds.json
	$(BENCH_PYTHON) -m benchmarks.efficacy ablations --base $(RUN) --data $(CELEBA) --runs $(BENCH)/ablations \
		$(BY_STRANGERS) --lpips-trunk $(LPIPS_ALEX) --out $(BENCH)/ablations/so-far.json
	mv $(BENCH)/ablations/so-far.json $@

ON_LFW = --lfw $(SHARED)/data/lfw --bundle $(ANONYMISER)/public

$(BENCH)/anonymiser.json:
	$(BENCH_PYTHON) -m benchmarks.efficacy anonymiser $(ON_LFW) --recognizers $(RECOGNIZERS) \
		$(if $(LPIPS_ALEX),--lpips-alex $(LPIPS_ALEX)) --folder $(BENCH)/anonymiser --out $@

$(BENCH)/anonymiser_curve.json:
	$(BENCH_PYTHON) -m benchmarks.efficacy anonymiser $(ON_LFW) $(LPIPS) --recognizers $(RECOGNIZERS) --pairs 30 \
		$(foreach s,0.2 0.4 0.6 0.8 1,--strength $(s)) --folder $(BENCH)/anonymiser --out $@

$(BENCH)/reconstruction.json:
	$(BENCH_PYTHON) -m benchmarks.efficacy reconstruction $(ON_LFW) $(LPIPS) --faces $(PACK) \
		--sheet-of $(SHARED)/data/synthetic/targets --folder $(BENCH)/reconstruction --out $@

$(BENCH)/photo.json:
	$(BENCH_PYTHON) -m benchmarks.latency photo --out $@

$(BENCH)/photo_anonymiser.json:
	$(BENCH_PYTHON) -m benchmarks.latency photo --bundle $(ANONYMISER) --out $@

$(BENCH)/latency.json:
	$(BENCH_PYTHON) -m benchmarks.latency networks --run $(RUN) --faces $(FACES) --out $@

$(BENCH)/latency_layers.json:
	$(BENCH_PYTHON) -m benchmarks.latency layers --run $(RUN) --faces $(FACES) --out $@

$(BENCH)/serving_overhead.json: | bench-env
	$(BENCH_PYTHON) -m benchmarks.serving overhead --environment $(SERVE_VENV) --out $@

$(BENCH)/serving.json: | bench-env
	$(BENCH_PYTHON) -m benchmarks.serving throughput --environment $(SERVE_VENV) --out $@

$(BENCH)/serving_anonymiser.json: | bench-env
	$(BENCH_PYTHON) -m benchmarks.serving throughput --bundle $(ANONYMISER)/public --environment $(SERVE_VENV) \
		--out $@

$(BENCH)/serving_split.json: | bench-env
	$(BENCH_PYTHON) -m benchmarks.serving throughput --compare split --environment $(SERVE_VENV) \
		--concurrency 8 --out $@

$(BENCH)/serving_sweep.json: | bench-env
	$(BENCH_PYTHON) -m benchmarks.serving throughput --compare knobs --environment $(SERVE_VENV) \
		--concurrency 1 --concurrency 8 --rounds 2 --out $@

$(BENCH)/int8:
	$(BENCH_PYTHON) -m export.build --run $(RUN) --faces $(FACES) --precision int8 --demo --out $@

$(BENCH)/serving_int8.json: | bench-env $(BENCH)/int8
	$(BENCH_PYTHON) -m benchmarks.serving throughput --bundle $(BENCH)/int8/public --backend openvino-bf16 \
		--concurrency 1 --concurrency 8 --concurrency 16 --environment $(SERVE_VENV) --out $@

$(BENCH)/soak.json: | bench-env
	$(BENCH_PYTHON) -m benchmarks.serving soak --environment $(SERVE_VENV) --out $@
