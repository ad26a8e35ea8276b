# An assignment of "Mamba in plain C". `make` lists what can be done here.
#
# Settings, given on the command line:  EX=4.2  CC=clang  SANITIZE=1

CC       ?= cc
EX       ?=
SANITIZE ?= 0

CHAPTER  := $(shell sed -n 's/^chapter //p' tests/exercises.txt)
SOURCES  := $(shell grep -lE '^(.if __INCLUDE_LEVEL__ == 0|int main)' $(wildcard ch$(CHAPTER)_*/*.c ch$(CHAPTER)_*/*.cu))
PROGRAMS := $(foreach s,$(SOURCES),build/ch$(CHAPTER)_$(basename $(notdir $(s))))
CHECK    := $(if $(filter 1,$(SANITIZE)),-g -fsanitize=address$(comma)undefined)
comma    := ,

GRADE = build/grade --kit . --compiler '$(CC)' --flags "$$(cat build/cmocka.flags)" \
        $(if $(EX),--exercise $(EX)) $(if $(filter 1,$(SANITIZE)),--sanitize --optimise '-O1 -g')

.PHONY: help all run test score hint watch clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z_.]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile
	@echo
	@awk '$$1 == "exercise" { title = $$0; sub(/^([^ ]+ )([^ ]+ )([^ ]+ )([^ ]+ )([^ ]+ )/, "", title); \
	    at = 0; hole = 0; for (n = 1; (getline line < $$5) > 0; n++) { \
	        if (index(line, "//> EX " $$2 " ")) at = n; \
	        if (index(line, "EXERCISE_TODO(\"" $$2 "\")")) hole = n } \
	    close($$5); \
	    printf "  %-4s %-44s %2d minutes, %d point%s\n         %s:%d%s\n", $$2, title, $$4, $$3, $$3 == 1 ? "" : "s", \
	        $$5, hole ? hole : at, hole ? "" : "  (written)" }' tests/exercises.txt

all: $(PROGRAMS) ## build the chapter's programs into build/

define program_rule
build/ch$(CHAPTER)_$(basename $(notdir $(1))): $(wildcard ch*/*.c ch*/*.cu ch*/*.h)
	@mkdir -p build
	$$(CC) -O2 -Wall -Wextra $(CHECK) -x c $(1) -o $$@ -lm
endef
$(foreach s,$(SOURCES),$(eval $(call program_rule,$(s))))

build/grade: $(wildcard tests/grade*.c)
	@mkdir -p build
	@$(CC) -O1 tests/grade.c -o $@ -lm

# The test library: found, or installed if need be. The file holds the flags to use it with.
build/cmocka.flags: tests/cmocka.sh
	@mkdir -p build
	@CC='$(CC)' sh tests/cmocka.sh > $@.new && mv $@.new $@

run: all ## walk the chapter's demo
	@if [ -s tests/demo.sh ]; then sh tests/demo.sh; else for p in $(PROGRAMS); do $$p || exit 1; done; fi

test: build/grade build/cmocka.flags ## test every exercise; EX=4.2 tests one; SANITIZE=1 checks memory too
	@$(GRADE)

score: build/grade build/cmocka.flags ## the table of points
	@$(GRADE) --score || true

hint: ## a hint for EX=4.2; ask again for the next
	@EX='$(EX)' sh tests/hint.sh

watch: build/grade build/cmocka.flags ## test again whenever a file of the chapter is saved
	@CHAPTER=$(CHAPTER) EX='$(EX)' sh tests/watch.sh

clean: ## remove build/
	rm -rf build
