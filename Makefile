# Mamba in plain C. `make help` lists what can be done here.
#
# Settings, on the command line: CC=clang OPENMP=0 NATIVE=0 SANITIZE=1 GOLDEN=dir

# All processors build and test, unless make is told how many. Whether it is told is known only when
# it runs a rule; so the first make does no more than ask the same of a second one.
ifneq ($(origin SECOND),command line)
GOALS   := $(or $(MAKECMDGOALS),all)
PROCESSORS = $(shell getconf _NPROCESSORS_ONLN)
.PHONY: $(GOALS) second
$(GOALS): second ; @:
second:
	@JOBS=$(or $(patsubst -j%,%,$(filter -j%,$(MAKEFLAGS))),$(PROCESSORS)) \
	    $(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(PROCESSORS)) SECOND=make $(GOALS)
else

CC       ?= cc
OPENMP   ?= 1
NATIVE   ?= 1
SANITIZE ?= 0
GOLDEN   ?= tests/golden
ifneq ($(GOLDEN),tests/golden)
  $(if $(shell test -d '$(GOLDEN)' && echo there),,$(error GOLDEN=$(GOLDEN): there is no such folder))
endif
CH       ?=
# Of settings given on the command line, before anything is built.
must      = $(if $(filter command,$(firstword $(origin $(1)))),\
            $(if $(shell printf '%s' '$($(1))' | grep -xE '$(2)'),,$(error $(1)=$($(1)): $(3))))
$(foreach name,OPENMP NATIVE SANITIZE,$(call must,$(name),0|1,it is 0 or 1))
$(foreach name,COUNT SEED SECONDS,$(call must,$(name),[0-9]+,a whole number is wanted))
$(if $(shell command -v '$(firstword $(CC))' 2> /dev/null),,$(error CC=$(CC): there is no such compiler))
$(call must,SHARE,[1-9][0-9]*/[1-9][0-9]*,a share is written 1/3)

BUILD := build$(if $(filter 1,$(SANITIZE)),/sanitize)

# A program is a source that has this line, behind which its main stands; all else beside a chapter
# is machinery, compiled with what includes it. chNN_name/STEM.c becomes build/chNN_STEM.
SOURCES  := $(shell grep -l '^.if __INCLUDE_LEVEL__ == 0' ch[0-9]*/*.c ch[0-9]*/*.cu)
program   = $(BUILD)/$(firstword $(subst _, ,$(1)))_$(basename $(notdir $(1)))
PROGRAMS := $(foreach source,$(SOURCES),$(call program,$(source)))
BENCHES  := $(filter %_bench,$(PROGRAMS))
DEMOS    := $(filter-out $(BENCHES),$(PROGRAMS))
CHAPTERS := 01 02 03 04 05 06

# The tests that run longest come first, so that no processor waits for them at the end.
LONG     := classroom cage lessons ch05_language_model ch05_pretrained ch05_bits ch06_cuda_scan
NAMES    := $(patsubst tests/test_%.c,%,$(wildcard tests/test_*.c))
# LEAVE: tests that are left out, for who has little time
LEAVE    ?=
$(if $(filter-out $(NAMES),$(LEAVE)),$(error LEAVE=$(filter-out $(NAMES),$(LEAVE)): there is no such test in tests/))
TESTS    := $(patsubst %,$(BUILD)/tests/test_%,$(filter-out $(LEAVE),$(filter $(NAMES),$(LONG)) $(filter-out $(LONG),$(NAMES))))

# What this compiler and machine can do is tried, not assumed.
try      = $(shell echo 'int main(void) { return 0; }' | \
             $(CC) -Werror $(1) -x c - -o /dev/null 2>/dev/null && echo '$(1)')
# Every program is one translation unit: told so, gcc compiles what the program uses and no more,
# in a third of the time, to the same speed. It looks through so many calls then that three of its
# warnings come of cases that cannot be; `make check` asks it for these without this.
WHOLE    := $(call try,-fwhole-program)
WARNINGS := -Wall -Wextra -Wshadow $(if $(WHOLE),-Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-array-bounds)
# A product and a sum are fused where the source says so, nowhere else: the same numbers whatever the
# compiler makes of it (ch04_selective/vectors.h).
BITS     := $(call try,-ffp-contract=off)
# What of -O3 makes these programs fast, without the rest, which takes gcc a third of its time.
FAST     := $(or $(call try,-O2 -fvect-cost-model=dynamic -fpeel-loops),-O3)
ifeq ($(SANITIZE),1)
# gcc looks after the shared arrays of chapter 6's kernels if it is told so.
OPTIMISE := -O1 -g1 $(WHOLE) $(BITS) -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all \
            $(call try,-fsanitize=address -fsanitize-sections=cuda_shared)
else
OPTIMISE := $(FAST) $(WHOLE) $(BITS) $(if $(filter 1,$(NATIVE)),$(call try,-march=native)) \
            $(if $(filter 1,$(OPENMP)),$(call try,-fopenmp))
endif
COMPILE  := $(CC) $(OPTIMISE) $(WARNINGS) $(CFLAGS)

.PHONY: all cuda run tour test test-cuda counts bits peers bench figures train corpus check mutants fuzz compile_commands.json clean help
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
	@echo 'building $$@'
	@$$(COMPILE) $(if $(filter %.cu,$(1)),-x c) -MMD -MP -MF $$@.d -MT $$@ $$< -o $$@ -lm
endef
$(foreach source,$(SOURCES),$(eval $(call program_rule,$(source))))

NVCC     ?= nvcc
CUDA     := $(if $(filter 1,$(SANITIZE)),,$(shell command -v $(NVCC) 2>/dev/null))
GPU      := $(if $(CUDA),$(shell nvidia-smi -L 2>/dev/null | head -n 1))
CUDA_RUN := $(BUILD)/cuda/ch06_cuda_scan
# For the GPU that is there, or, if none is, for these; the last as PTX, for what comes after.
CUDA_FOR  = $(if $(GPU),-arch=native,$(foreach sm,80 90,\
              -gencode arch=compute_$(sm),code=sm_$(sm)) -gencode arch=compute_90,code=compute_90)
CUDA_SAID := $(if $(CUDA),$(patsubst ch06_cuda_scan/%.cu,$(BUILD)/cuda/ch06_%.said,$(filter %.cu,$(SOURCES))))
# What nvcc builds takes a minute, and is of use only where a GPU answers.
CUDA_BUILT = $$(sort -u $(CUDA_SAID) | head -n 1)
all: $(if $(GPU),$(CUDA_SAID))
	@echo "chapter 6: built for the CPU$(if $(GPU),$(CUDA_BUILT),$(if \
	    $(CUDA),$(NO_GPU),; nvcc would build it for a GPU))"
NO_GPU = , as no GPU answers; make cuda builds it for one all the same

cuda: $(CUDA_SAID) ## build chapter 6 with nvcc, whether or not a GPU answers
	@test -n '$(CUDA)' || { echo 'error: make cuda needs nvcc, and no SANITIZE=1' >&2; exit 2; }
	@echo "chapter 6: $(CUDA_BUILT)" | sed 's/: , and /: built /; s/: ; /: /'; test -x $(CUDA_RUN)

# An nvcc that cannot build a program, old or without a compiler of its own, breaks nothing: what it
# said is kept, in one line, beside where the program would be.
$(BUILD)/cuda/ch06_%.said: ch06_cuda_scan/%.cu $(wildcard ch*/*.c ch*/*.cu ch*/*.h) $(BUILD)/flags
	@mkdir -p $(@D) && rm -f $(basename $@)
	@echo 'building $(basename $@) with $(NVCC)'
	@$(NVCC) -O3 -t 0 $(CUDA_FOR) $< -o $(basename $@) > $@.all 2>&1 \
	    && { cat $@.all; echo ', and for a GPU (by $(CUDA))' > $@; } \
	    || { rm -f $(basename $@); { grep -m 1 -iE 'error|fatal|not |no ' $@.all || head -n 1 $@.all; } | \
	         cut -c 1-200 | sed "s|^|; $(NVCC) cannot build it for a GPU: |" > $@; test -s $@ || echo '; $(NVCC) fails' > $@; }
	@rm -f $@.all

# The tests of chapter 6 as nvcc builds them, which skip themselves where no GPU answers.
$(BUILD)/cuda/tests/%: tests/%.c $(wildcard ch*/*.c ch*/*.cu ch*/*.h) $(BUILD)/cmocka.flags
	@mkdir -p $(BUILD)/cuda/tests
	$(NVCC) -O2 -t 0 -x cu -diag-suppress 177,550 $(CUDA_FOR) $< -o $@ $$(sed 's/-pthread/-Xcompiler &/' $(BUILD)/cmocka.flags)

# The test library: found, or installed if need be. The file holds the flags to use it with.
$(BUILD)/cmocka.flags: tests/cmocka.sh $(BUILD)/flags
	@CC='$(CC)' sh tests/cmocka.sh > $@.new && mv $@.new $@

# A test is compiled for each time that it runs: it is optimised little, and most only as far as that makes
# gcc's own work less. One thing more is asked for: with it gcc leaves the upper halves of vectors empty
# behind it (vzeroupper); where they are not, some processors take ten times as long for exp.
TIDY := $(call try,-fexpensive-optimizations)
BUSY := $(patsubst %,$(BUILD)/tests/test_%,ch05_language_model ch06_cuda_dual ch06_cuda_scan)
$(BUILD)/tests/%: tests/%.c $(BUILD)/flags $(BUILD)/cmocka.flags
	@echo 'building $@'
	@$(subst $(FAST),$(if $(filter $(BUSY),$@),-O1,-Og) $(TIDY),$(COMPILE)) -MMD -MP -MF $@.d -MT $@ $< -o $@ $$(cat $(BUILD)/cmocka.flags) -lm

$(BUILD)/tests/test_classroom $(BUILD)/tests/test_cage: $(BUILD)/grade

-include $(wildcard $(BUILD)/*.d $(BUILD)/tests/*.d)

# ---- to run ------------------------------------------------------------------------------------

show = @printf '\n$$ %s\n' '$(1)' && $(1)
CH_TWO := $(if $(filter 1 2 3 4 5 6,$(CH)),0$(CH),$(CH))

# The tour: whose question it is, and the command that shows its one picture or table. A stop, with
# its title, question and where more is, has 30 lines at most.
define TOUR
ch01_markov          ch01_markov --forgetting | tail -n 18
ch02_ssm             ch02_ssm --demo front | tail -n 18
ch03_discretize      ch03_discretize --demo hours | tail -n 18
ch04_selective       ch04_selective --brief
ch05_mamba_block     ch05_mamba_block --trace
ch05_language_model  ch05_stories_test --focus
ch05_pretrained      ch05_pretrained
ch05_mamba2          ch05_mamba2 --demo matrix --length 12 --chunk 4
ch05_mamba3          ch05_mamba3 --demo hand
ch06_cuda_scan       ch06_cuda_scan --demo ladder
endef
export TOUR

run: $(if $(CH),$(if $(filter $(CHAPTERS),$(CH_TWO)),run-$(CH_TWO),no-such-chapter),tour) ## a tour: each chapter's question and picture; CH=02 walks one

tour: $(filter $(PROGRAMS),$(addprefix $(BUILD)/,$(sort $(TOUR))))
	@printf '%s\n' "$$TOUR" | BUILD='$(BUILD)' sh tests/tour.sh

no-such-chapter:
	@echo 'error: CH=$(CH): there is no such chapter; there are $(CHAPTERS)' >&2; exit 2

# The programs of one chapter, without what only measures.
of_chapter = $(filter $(BUILD)/ch$(1)_%,$(DEMOS))

run-01: $(call of_chapter,01)
	@printf '\n==== Chapter 1: the weather as a Markov chain (ch01_markov/README.md) ====\n'
	$(call show,$(BUILD)/ch01_markov --chain data/weather.csv)
	$(call show,$(BUILD)/ch01_markov --forgetting)
	$(call show,$(BUILD)/ch01_markov --strip)
	$(call show,$(BUILD)/ch01_markov --simulate 10000 --seed 1962)
	$(call show,$(BUILD)/ch01_markov --fit data/tel_aviv_rain.csv --start wet)
	$(call show,$(BUILD)/ch01_markov --fit data/alofi_rain.csv --start much)
	$(call show,$(BUILD)/ch01_markov --fit data/synthetic_record.csv --days 2)

run-02: $(call of_chapter,02)
	@printf '\n==== Chapter 2: the four matrices A, B, C, D (ch02_ssm_abcd/README.md) ====\n'
	$(call show,$(BUILD)/ch02_ssm)
	$(call show,$(BUILD)/ch02_ssm --system data/two_memories.ssm --input data/sunspots.csv --length 60)
	$(call show,$(BUILD)/ch02_ssm --system data/oscillator.ssm --input step --length 60)

run-03: $(call of_chapter,03)
	@printf '\n==== Chapter 3: from continuous time to steps (ch03_discretize/README.md) ====\n'
	$(call show,$(BUILD)/ch03_discretize)
	$(call show,$(BUILD)/ch03_discretize --hippo 32 --input data/sunspots.csv --length 60)
	$(call show,$(BUILD)/ch03_discretize --system data/spring.ssm --rule zoh --step 0.25)
	$(call show,$(BUILD)/ch03_discretize --generator data/weather.csv)

run-04: $(call of_chapter,04)
	@printf '\n==== Chapter 4: selection, and the scan (ch04_selective/README.md) ====\n'
	$(call show,$(BUILD)/ch04_selective)
	$(call show,$(BUILD)/ch04_selective --story data/stories/back_and_forth.txt --cues data/cues.txt)

run-05: $(filter-out %_safetensors %_classic_tasks %_which_layer %_ablation %_as_library,$(call of_chapter,05))
	@printf '\n==== Chapter 5: the Mamba block (ch05_mamba_block/README.md) ====\n'
	$(call show,$(BUILD)/ch05_mamba_block)
	@printf '\n==== Chapter 5a: a language model (ch05_mamba_block/LANGUAGE_MODEL.md) ====\n'
	$(call show,$(BUILD)/ch05_rainbow | fold -s -w 78)
	$(call show,$(BUILD)/ch05_language_model)
	$(call show,$(BUILD)/ch05_stories_test --focus)
	$(call show,$(BUILD)/ch05_stories_test)
	$(call show,$(BUILD)/ch05_lengths)
	@printf '\n==== Chapter 5b: a pretrained model (ch05_mamba_block/PRETRAINED.md) ====\n'
	$(call show,$(BUILD)/ch05_pretrained)
	@printf '\n==== Chapter 5c: Mamba-2 (ch05_mamba_block/MAMBA2.md) ====\n'
	$(call show,$(BUILD)/ch05_mamba2)
	$(call show,$(BUILD)/ch05_mamba2_block)
	@printf '\n==== Chapter 5d: Mamba-3 (ch05_mamba_block/MAMBA3.md) ====\n'
	$(call show,$(BUILD)/ch05_mamba3)
	$(call show,$(BUILD)/ch05_state_tracking)

run-06: $(call of_chapter,06) $(if $(GPU),$(CUDA_SAID))
	@printf '\n==== Chapter 6: the scan on a GPU, and without one (ch06_cuda_scan/README.md) ====\n'
	$(call show,$(BUILD)/ch06_cuda_scan)
	$(call show,$(BUILD)/ch06_cuda_backward)
	@printf '\n==== Chapter 6a: Mamba-2 on tensor cores (ch06_cuda_scan/TENSOR_CORES.md) ====\n'
	$(call show,$(BUILD)/ch06_cuda_dual)
	@if [ -x $(CUDA_RUN) ] && $(CUDA_RUN) --device > /dev/null 2>&1; then \
	    printf '\n$$ %s\n' $(CUDA_RUN); $(CUDA_RUN); fi

MEASURE := ch02_bench ch03_bench ch04_bench 'ch05_bench --block' 'ch05_bench --compare' 'ch05_bench --training' \
    'ch05_bench --contended' 'ch05_bench --mamba2' 'ch05_bench --pretrained $(BUILD)/random-130m' 'ch06_bench --csv $(BUILD)/ch06_bench.csv'

bench: $(BENCHES) $(if $(GPU),$(CUDA_SAID)) ## measure: fast against clear, and both against the machine's limits
	@for words in $(MEASURE); do \
	    program=$(BUILD)/$$words; \
	    if [ $${words%%_*} = ch06 ] && [ -x $(BUILD)/cuda/ch06_bench ] && $(CUDA_RUN) --device > /dev/null 2>&1; then \
	        program=$(BUILD)/cuda/$$words; fi; \
	    printf '\n$$ %s\n' "$$program"; $$program || exit 1; done

train: $(BUILD)/ch05_language_model ## train the language model of data/tiny-mamba again, on stories, in two minutes
	$(call show,$(BUILD)/ch05_language_model --train --out data/tiny-mamba)

corpus: $(BUILD)/ch05_rainbow ## write the stories of data/rainbow again, from their grammar
	$(call show,$(BUILD)/ch05_rainbow --write data/rainbow)

# ---- to test -----------------------------------------------------------------------------------

test: $(PROGRAMS) $(TESTS) ## build and run every test; SANITIZE=1 with ASan and UBSan; GOLDEN=dir
	@GOLDEN='$(GOLDEN)' BUILD='$(BUILD)' sh tests/run_tests.sh $(TESTS)

test-cuda: $(patsubst %,$(BUILD)/cuda/tests/test_ch06_cuda_%,scan dual) ## chapter 6's tests on the GPU (needs nvcc and a GPU)
	for test in $^; do $$test || exit 1; $(if $(shell command -v compute-sanitizer 2>/dev/null),\
	    for tool in memcheck racecheck; do \
	        compute-sanitizer --tool $$tool --error-exitcode 1 $$test || exit 1; done;) done

# Chapter 6's kernels, every thread known to ThreadSanitizer: races that no order of threads shows.
.PHONY: races
RACES := build/races/test_ch06_cuda_on_cpu
races: $(BUILD)/cmocka.flags ## chapter 6's kernels under ThreadSanitizer: each race by its two lines
	@mkdir -p $(dir $(RACES)) && echo 'building $(RACES)'
	@$(CC) -O1 -g $(BITS) -Wall -Wextra -Wshadow -fsanitize=thread tests/test_ch06_cuda_on_cpu.c -o $(RACES) \
	    $$(cat $(BUILD)/cmocka.flags) -lm
	@BUILD=build sh tests/run_tests.sh $(RACES)

mutants: $(BUILD)/cmocka.flags $(DEMOS) ## break each chapter in many small ways; every one must be noticed
	@CC='$(CC)' BUILD='$(BUILD)' sh tests/mutants/run.sh

counts: ## registers and instructions of chapter 6's kernels, by class (needs nvcc and cuobjdump; no GPU)
	@sh tests/kernel_counts.sh

bits: $(BUILD)/ch05_language_model ## the same training for every width of vectors, ARM's by qemu: the same bytes
	@CC='$(CC)' BUILD='$(BUILD)' sh tests/bits.sh --neon

.PHONY: machines
machines: $(DEMOS) ## compile for macOS and musl (zig), and run the tests of chapters 1 to 5 on ARM (qemu)
	@BUILD='$(BUILD)' sh tests/machines.sh --run

PYTHON ?= python3
COUNT  ?= 100
SEED   ?= 1
peers: $(BUILD)/ch05_pretrained ## random models and tokenizers against Transformers (Python); COUNT=100 SEED=1
	@BUILD='$(BUILD)' $(PYTHON) tests/peers.py $(COUNT) $(SEED)

figures: $(DEMOS) $(BUILD)/tests/test_lessons ## redraw every figure of the lessons
	@BUILD='$(BUILD)' $(BUILD)/tests/test_lessons --figures

check: ## formatting, cppcheck, clang-tidy, and all sources as C11 and C++17 with every compiler
	@sh tests/check.sh

SECONDS ?= 300
fuzz: ## fuzz every reader of files with libFuzzer (needs clang), SECONDS=300 each; TARGETS='words folders'
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

$(BUILD)/grade: $(wildcard tests/classroom/grade*.c) $(BUILD)/flags
	@$(subst $(FAST),-O1,$(COMPILE)) tests/classroom/grade.c -o $@ -lm

# The course's own probes, and the teacher's: what is right they learn from the solved course.
GRADE = $(BUILD)/grade --kit $(KIT) --flags "$(CMOCKA_FLAGS)" --reference . \
    $(if $(wildcard $(PROBES)/*.c),--probes $(PROBES)) $(if $(HIDDEN),--probes '$(HIDDEN)') $(GRADE_FLAGS)
PROBES = tests/classroom/probes

assignment: ## write what students get: CH=04 or CH=all; OUT=dir
	@$(ONE_CHAPTER) for chapter in $(if $(filter all,$(CH)),$$(ls ch[0-9]*/* | \
	    sed -n 's/^ch\([0-9]*\)_.*/\1/p' | sort -u),$(CH_TWO)); do \
	    sh tests/classroom/assignment.sh $$chapter $(if $(OUT),$(OUT)$(if $(filter all,$(CH)),/ch$$chapter)) || exit 1; done

grade: $(BUILD)/grade $(BUILD)/cmocka.flags ## grade one: CH=04 SUBMISSION=dir; HIDDEN=dir OUT=results.json
	@$(ONE_CHAPTER) test -n '$(SUBMISSION)' || { echo 'error: say whose work: SUBMISSION=dir' >&2; exit 2; }; \
	 test -e '$(SUBMISSION)' || { echo 'error: SUBMISSION=$(SUBMISSION): no such folder' >&2; exit 2; }
	@$(MAKE_KIT)
	@$(GRADE) --submission '$(SUBMISSION)' \
	    --results '$(or $(OUT),build/results.json)' --junit '$(patsubst %.json,%,$(or $(OUT),build/results.json)).xml'

grade-class: $(BUILD)/grade $(BUILD)/cmocka.flags ## grade every folder: CH=04 SUBMISSIONS=dir; HIDDEN=dir OUT=dir DUE='2026-11-30 23:59'
	@$(ONE_CHAPTER) test -n '$(SUBMISSIONS)' || { echo 'error: say where the work is: SUBMISSIONS=dir' >&2; exit 2; }
	@$(MAKE_KIT)
	@mkdir -p '$(or $(OUT),build/class)'
	@$(GRADE) --class '$(SUBMISSIONS)' --out '$(or $(OUT),build/class/ch$(CH_TWO))' $(if $(DUE),--due '$(DUE)') \
	    $(if $(PER_DAY),--per-day $(PER_DAY)) $(if $(JOBS),--jobs $(JOBS))

gradescope: ## write the autograder for Gradescope: CH=04; HIDDEN=dir OUT=file.zip
	@$(ONE_CHAPTER) $(MAKE_KIT)
	@sh tests/classroom/gradescope.sh $(KIT) '$(HIDDEN)' '$(or $(OUT),build/gradescope/ch$(CH_TWO).zip)'

classroom-check: $(BUILD)/grade $(BUILD)/cmocka.flags ## every exercise: stub 0 %, solution 100 %, wrong solutions less
	@CC='$(CC)' BUILD='$(BUILD)' sh tests/classroom/check.sh $(CH_TWO)

# ---- the rest ----------------------------------------------------------------------------------

compile_commands.json: ## write build/compile_commands.json, which clangd and other tools read
	@mkdir -p build
	@{ echo '['; separator=; \
	   for file in $(wildcard ch*/*.c ch*/*.cu tests/*.c tests/fuzz/*.c); do \
	       printf '%s{"directory": "%s", "file": "%s", "command": "%s -x c -c %s"}\n' \
	           "$$separator" "$(CURDIR)" "$$file" '$(COMPILE)' "$$file"; separator=,; \
	   done; echo ']'; } > build/compile_commands.json

clean: ## remove build/
	rm -rf build

help: ## this list
	@awk -F ':.*## ' '/^[a-z_.-]+:.*## / { line = sprintf("  make %-15s", $$1); n = split($$2, word, " "); \
	    for (i = 1; i <= n; i++) { if (length(line word[i]) > 78) { print line; line = sprintf("%22s", "") } \
	        line = line " " word[i] } print line }' Makefile
	@echo && sed -n 's/^# \(Settings.*\)/\1/p' Makefile

endif
