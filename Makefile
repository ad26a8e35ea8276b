# Mamba in plain C. `make help` lists what can be done here.
#
# Settings, given on the command line:  CC=clang  OPENMP=0  NATIVE=0  SANITIZE=1  GOLDEN=dir  CH=02

CC       ?= cc
OPENMP   ?= 1
NATIVE   ?= 1
SANITIZE ?= 0
GOLDEN   ?= tests/golden
CH       ?=

BUILD := build$(if $(filter 1,$(SANITIZE)),/sanitize)

# Each program's source; chapter NN's file STEM.c becomes build/chNN_STEM.
SOURCES := ch01_markov/markov.c ch02_ssm_abcd/ssm.c ch03_discretize/discretize.c \
           ch04_selective/selective.c ch05_mamba_block/mamba_block.c \
           ch05_mamba_block/language_model.c ch05_mamba_block/safetensors.c \
           ch05_mamba_block/pretrained.c ch06_cuda_scan/cuda_scan.cu
program  = $(BUILD)/$(firstword $(subst _, ,$(1)))_$(basename $(notdir $(1)))
PROGRAMS := $(foreach source,$(SOURCES),$(call program,$(source)))
TESTS    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c))
CHAPTERS := 01 02 03 04 05 06

# What this compiler and machine can do is tried, not assumed.
try      = $(shell echo 'int main(void) { return 0; }' | \
             $(CC) $(1) -x c - -o /dev/null 2>/dev/null && echo '$(1)')
WARNINGS := -Wall -Wextra -Wshadow
ifeq ($(SANITIZE),1)
OPTIMISE := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
else
OPTIMISE := -O3 -g $(if $(filter 1,$(NATIVE)),$(call try,-march=native)) \
            $(if $(filter 1,$(OPENMP)),$(call try,-fopenmp))
endif
COMPILE  := $(CC) $(OPTIMISE) $(WARNINGS) $(CFLAGS)

# All processors build, unless make is told how many.
ifeq ($(filter -j% --jobserver%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell getconf _NPROCESSORS_ONLN)
endif

.PHONY: all run test test-cuda bench figures train corpus check mutants fuzz compile_commands.json clean help
.DELETE_ON_ERROR:
.SUFFIXES:

all: $(PROGRAMS) ## build every program into build/

# A change of compiler or flags is a change of everything: this file holds them, and is touched
# only when they differ from the last build's.
$(BUILD)/flags: FORCE
	@mkdir -p $(BUILD)/tests
	@echo '$(COMPILE)' | cmp -s - $@ || echo '$(COMPILE)' > $@
.PHONY: FORCE
FORCE:

# Chapter 6 is C for who takes it for C; with nvcc it is built for a GPU besides.
define program_rule
$(call program,$(1)): $(1) $(BUILD)/flags
	$$(COMPILE) $(if $(filter %.cu,$(1)),-x c) -MMD -MP -MF $$@.d -MT $$@ $$< -o $$@ -lm
endef
$(foreach source,$(SOURCES),$(eval $(call program_rule,$(source))))

NVCC     ?= nvcc
CUDA     := $(if $(filter 1,$(SANITIZE)),,$(shell command -v $(NVCC) 2>/dev/null))
CUDA_RUN := $(BUILD)/cuda/ch06_cuda_scan
# For the GPU that is there, or, if none is, for these; the last as PTX, for what comes after.
CUDA_FOR := $(if $(CUDA),$(if $(shell nvidia-smi -L 2>/dev/null),-arch=native,$(foreach sm,80 90,\
              -gencode arch=compute_$(sm),code=sm_$(sm)) -gencode arch=compute_90,code=compute_90))
all: $(if $(CUDA),$(CUDA_RUN))
	@echo 'chapter 6: built for the CPU$(if $(CUDA), and for a GPU (by $(CUDA)),; nvcc would build it for a GPU)'

$(BUILD)/cuda/%: ch06_cuda_scan/cuda_scan.cu $(filter-out %.cu,$(SOURCES)) $(BUILD)/flags
	@mkdir -p $(BUILD)/cuda
	$(NVCC) -O3 -t 0 $(CUDA_FOR) $< -o $@

# The tests of chapter 6 as nvcc builds them, which skip themselves where no GPU answers.
$(BUILD)/cuda/tests/%: tests/%.c ch06_cuda_scan/cuda_scan.cu $(BUILD)/cmocka.flags
	@mkdir -p $(BUILD)/cuda/tests
	$(NVCC) -O2 -t 0 -x cu -diag-suppress 177 $(CUDA_FOR) $< -o $@ $$(sed 's/-pthread/-Xcompiler &/' $(BUILD)/cmocka.flags)

# The test library: found, or installed if need be. The file holds the flags to use it with.
$(BUILD)/cmocka.flags: tests/cmocka.sh $(BUILD)/flags
	@CC='$(CC)' sh tests/cmocka.sh > $@.new && mv $@.new $@

$(BUILD)/tests/%: tests/%.c $(BUILD)/flags $(BUILD)/cmocka.flags
	$(COMPILE) -MMD -MP -MF $@.d -MT $@ $< -o $@ $$(cat $(BUILD)/cmocka.flags) -lm

$(BUILD)/tests/test_classroom: $(BUILD)/grade

-include $(wildcard $(BUILD)/*.d $(BUILD)/tests/*.d)

# ---- to run ------------------------------------------------------------------------------------

show = @printf '\n$$ %s\n' '$(1)' && $(1)
CH_TWO := $(if $(filter 1 2 3 4 5 6,$(CH)),0$(CH),$(CH))

run: $(PROGRAMS) ## walk every chapter's demo on the data in data/; CH=02 walks one
	@$(if $(filter-out $(CHAPTERS),$(CH_TWO)),echo 'error: CH=$(CH): there is no such chapter; there are $(CHAPTERS)' >&2; exit 2)
	@for chapter in $(or $(CH_TWO),$(CHAPTERS)); do \
	    $(MAKE) --no-print-directory run-$$chapter || exit 1; done

run-01: $(PROGRAMS)
	@printf '\n==== Chapter 1: the weather as a Markov chain (ch01_markov/README.md) ====\n'
	$(call show,$(BUILD)/ch01_markov --chain data/weather.csv)
	$(call show,$(BUILD)/ch01_markov --forgetting)
	$(call show,$(BUILD)/ch01_markov --simulate 10000 --seed 1962)
	$(call show,$(BUILD)/ch01_markov --fit data/tel_aviv_rain.csv --start wet)
	$(call show,$(BUILD)/ch01_markov --fit data/alofi_rain.csv --start much)
	$(call show,$(BUILD)/ch01_markov --fit data/synthetic_record.csv --days 2)

run-02: $(PROGRAMS)
	@printf '\n==== Chapter 2: the four matrices A, B, C, D (ch02_ssm_abcd/README.md) ====\n'
	$(call show,$(BUILD)/ch02_ssm)
	$(call show,$(BUILD)/ch02_ssm --system data/two_memories.ssm --input data/sunspots.csv --length 60)
	$(call show,$(BUILD)/ch02_ssm --system data/oscillator.ssm --input step --length 60)

run-03: $(PROGRAMS)
	@printf '\n==== Chapter 3: from continuous time to steps (ch03_discretize/README.md) ====\n'
	$(call show,$(BUILD)/ch03_discretize)
	$(call show,$(BUILD)/ch03_discretize --hippo 32 --signal data/sunspots.csv --length 60)
	$(call show,$(BUILD)/ch03_discretize --system data/spring.ssm --rule zoh --step 0.25)
	$(call show,$(BUILD)/ch03_discretize --generator data/weather.csv)

run-04: $(PROGRAMS)
	@printf '\n==== Chapter 4: selection, and the scan (ch04_selective/README.md) ====\n'
	$(call show,$(BUILD)/ch04_selective)
	$(call show,$(BUILD)/ch04_selective --story data/stories/back_and_forth.txt --cues data/cues.txt)

run-05: $(PROGRAMS)
	@printf '\n==== Chapter 5: the Mamba block (ch05_mamba_block/README.md) ====\n'
	$(call show,$(BUILD)/ch05_mamba_block)
	$(call show,$(BUILD)/ch05_mamba_block --count --width 768)
	@printf '\n==== Chapter 5, capstone 1: a language model (ch05_mamba_block/LANGUAGE_MODEL.md) ====\n'
	$(call show,$(BUILD)/ch05_language_model)
	$(call show,$(BUILD)/ch05_language_model --focus)
	$(call show,$(BUILD)/ch05_language_model --test)
	@printf '\n==== Chapter 5, capstone 2: a pretrained model (ch05_mamba_block/PRETRAINED.md) ====\n'
	$(call show,$(BUILD)/ch05_pretrained)

run-06: $(PROGRAMS) $(if $(CUDA),$(CUDA_RUN))
	@printf '\n==== Chapter 6: the scan on a GPU, and without one (ch06_cuda_scan/README.md) ====\n'
	@program=$(BUILD)/ch06_cuda_scan; \
	    if [ -x $(CUDA_RUN) ] && $(CUDA_RUN) --device > /dev/null 2>&1; then program=$(CUDA_RUN); fi; \
	    for words in '' '--scan 2,1000,24,16' '--scan 1,20000,2,16 --kernel pieces'; do \
	        printf '\n$$ %s %s\n' $$program "$$words"; $$program $$words || exit 1; done

bench: $(PROGRAMS) $(if $(CUDA),$(CUDA_RUN)) ## measure: fast against clear, and both against the machine's limits
	$(call show,$(BUILD)/ch02_ssm --bench)
	$(call show,$(BUILD)/ch03_discretize --bench)
	$(call show,$(BUILD)/ch04_selective --bench)
	$(call show,$(BUILD)/ch05_mamba_block --bench)
	$(call show,$(BUILD)/ch05_mamba_block --compare)
	$(call show,$(BUILD)/ch05_language_model --bench)
	$(call show,$(BUILD)/ch05_pretrained --bench)
	@program=$(BUILD)/ch06_cuda_scan; \
	    if [ -x $(CUDA_RUN) ] && $(CUDA_RUN) --device > /dev/null 2>&1; then program=$(CUDA_RUN); fi; \
	    printf '\n$$ %s --bench\n' $$program; $$program --bench --csv $(BUILD)/ch06_bench.csv

train: $(PROGRAMS) ## train the language model of data/tiny-mamba again, from the stories, in a minute
	$(call show,$(BUILD)/ch05_language_model --train --out data/tiny-mamba)

corpus: $(BUILD)/flags ## write the stories of data/rainbow again, from their grammar
	$(COMPILE) data/rainbow/grammar.c -o $(BUILD)/grammar -lm && $(BUILD)/grammar data/rainbow

# ---- to test -----------------------------------------------------------------------------------

test: $(PROGRAMS) $(TESTS) ## build and run every test; SANITIZE=1 with ASan and UBSan; GOLDEN=dir
	@GOLDEN='$(GOLDEN)' BUILD='$(BUILD)' sh tests/run_tests.sh $(TESTS)

test-cuda: $(BUILD)/cuda/tests/test_ch06_cuda_scan ## chapter 6's tests on the GPU (needs nvcc and a GPU)
	$< $(if $(shell command -v compute-sanitizer 2>/dev/null),\
	    && compute-sanitizer --tool memcheck --error-exitcode 1 $< \
	    && compute-sanitizer --tool racecheck --error-exitcode 1 $<)

mutants: $(BUILD)/cmocka.flags ## break each chapter in many small ways; every one must be noticed
	@CC='$(CC)' BUILD='$(BUILD)' sh tests/mutants/run.sh

figures: $(PROGRAMS) $(BUILD)/tests/test_lessons ## redraw every figure of the lessons
	@BUILD='$(BUILD)' $(BUILD)/tests/test_lessons --figures

check: ## formatting, cppcheck, clang-tidy, and all sources as C11 and C++17 with every compiler
	@sh tests/check.sh

SECONDS ?= 300
fuzz: ## fuzz every reader of files with libFuzzer (needs clang), SECONDS=300 each
	@SECONDS_EACH='$(SECONDS)' BUILD='$(BUILD)' sh tests/fuzz/run.sh

# ---- to hand out and grade (tests/README.md) -----------------------------------------------------

.PHONY: assignment grade grade-class gradescope classroom-check
SUBMISSION  ?=
SUBMISSIONS ?=
HIDDEN      ?=
OUT         ?=
KIT          = build/kits/ch$(CH_TWO)
MAKE_KIT     = REPLACE=1 sh tests/classroom/assignment.sh $(CH_TWO) $(KIT) > /dev/null
ONE_CHAPTER  = $(if $(CH_TWO),,echo 'error: say which chapter: CH=04' >&2; exit 2;)
CMOCKA_FLAGS = $$(cat $(BUILD)/cmocka.flags)

$(BUILD)/grade: tests/classroom/grade.c $(BUILD)/flags
	$(COMPILE) $< -o $@ -lm

assignment: ## write what students get: CH=04 or CH=all; OUT=dir
	@$(ONE_CHAPTER) for chapter in $(if $(filter all,$(CH)),$$(ls ch[0-9]*/* | \
	    sed -n 's/^ch\([0-9]*\)_.*/\1/p' | sort -u),$(CH_TWO)); do \
	    sh tests/classroom/assignment.sh $$chapter $(if $(OUT),$(OUT)$(if $(filter all,$(CH)),/ch$$chapter)) || exit 1; done

grade: $(BUILD)/grade $(BUILD)/cmocka.flags ## grade one: CH=04 SUBMISSION=dir; HIDDEN=dir OUT=results.json
	@$(ONE_CHAPTER) test -d '$(SUBMISSION)' || { echo 'error: SUBMISSION=$(SUBMISSION): no such folder' >&2; exit 2; }
	@$(MAKE_KIT)
	@$(BUILD)/grade --kit $(KIT) --submission '$(SUBMISSION)' --flags "$(CMOCKA_FLAGS)" --reference . \
	    --hide '$(CURDIR)' $(if $(HIDDEN),--hidden '$(HIDDEN)' --hide "$$(cd '$(HIDDEN)' && pwd)") \
	    --results '$(or $(OUT),build/results.json)' --junit '$(patsubst %.json,%,$(or $(OUT),build/results.json)).xml'

grade-class: $(BUILD)/grade $(BUILD)/cmocka.flags ## grade every folder: CH=04 SUBMISSIONS=dir; HIDDEN=dir OUT=dir
	@$(ONE_CHAPTER) $(MAKE_KIT)
	@GRADE=$(BUILD)/grade FLAGS="$(CMOCKA_FLAGS)" HIDDEN='$(HIDDEN)' sh tests/classroom/class.sh \
	    $(KIT) '$(SUBMISSIONS)' '$(or $(OUT),build/class/ch$(CH_TWO))'

gradescope: ## write the autograder for Gradescope: CH=04; HIDDEN=dir OUT=file.zip
	@$(ONE_CHAPTER) $(MAKE_KIT)
	@sh tests/classroom/gradescope.sh $(KIT) '$(HIDDEN)' '$(or $(OUT),build/gradescope/ch$(CH_TWO).zip)'

classroom-check: $(BUILD)/grade $(BUILD)/cmocka.flags ## every exercise: stub 0 %, solution 100 %, wrong solutions less
	@CC='$(CC)' BUILD='$(BUILD)' sh tests/classroom/check.sh $(CH_TWO)

# ---- the rest ----------------------------------------------------------------------------------

compile_commands.json: ## write build/compile_commands.json, which clangd and other tools read
	@mkdir -p build
	@{ echo '['; separator=; \
	   for file in $(SOURCES) $(wildcard tests/*.c); do \
	       printf '%s{"directory": "%s", "file": "%s", "command": "%s -x c -c %s"}' \
	           "$$separator" "$(CURDIR)" "$$file" '$(COMPILE)' "$$file"; separator=',\n'; \
	   done; printf '\n]\n'; } | sed 's/\\n/\n/g' > build/compile_commands.json

clean: ## remove build/
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z_.-]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' Makefile
	@sed -n 's/^# \(Settings.*\)/\n\1/p' Makefile
