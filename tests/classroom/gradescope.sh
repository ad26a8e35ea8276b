#!/bin/sh
# Writes the autograder of one chapter for Gradescope: sh tests/classroom/gradescope.sh KIT HIDDEN ZIP
# (HIDDEN may be empty). It holds the assignment, the course's probes and the hidden ones, and the
# solved course, by which they know what is right. The same course gives the same bytes.
set -eu
LC_ALL=C
TZ=UTC
export LC_ALL TZ
kit=$1 hidden=$2 zip=$3
command -v zip > /dev/null || { echo "error: zip is not installed (Debian: apt-get install zip)" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -R "$kit" "$work/kit"
mkdir "$work/probes"
for file in tests/classroom/probes/*.c ${hidden:+"$hidden"/*.c}; do
    [ ! -f "$file" ] || cp "$file" "$work/probes/"
done
mkdir -p "$work/reference/tests"
for file in ch[0-9]*/*.c ch[0-9]*/*.cu ch[0-9]*/*.h; do
    [ ! -f "$file" ] || { mkdir -p "$work/reference/${file%/*}" && cp "$file" "$work/reference/$file"; }
done
cp -R data "$work/reference/data"
cp -R tests/golden tests/*.h "$work/reference/tests/"

cat > "$work/setup.sh" << 'END'
#!/bin/sh
# Gradescope runs this once, when it builds the image.
set -eu
if ! command -v cc > /dev/null || ! sh /autograder/source/kit/tests/cmocka.sh > /dev/null 2>&1; then
    apt-get update
    apt-get install -y gcc libc6-dev make libcmocka-dev
fi
END

cat > "$work/run_autograder" << 'END'
#!/bin/sh
# Gradescope runs this for every submission. AUTOGRADER names another place than /autograder.
root=${AUTOGRADER:-/autograder}
source=$root/source
mkdir -p "$root/results"
results=$root/results/results.json
rm -f "$results"
flags=$(cd "$source/kit" && sh tests/cmocka.sh)
grade=$(mktemp)
cc -O1 "$source/kit/tests/grade.c" -o "$grade" -lm
chmod -R go-rwx "$source" # where there is no cage, the submission's user cannot read it
"$grade" --kit "$source/kit" --submission "$root/submission" --flags "$flags" --results "$results" \
    --probes "$source/probes" --reference "$source/reference"
rm -f "$grade"
[ -s "$results" ] || echo '{"score": 0, "output": "The grader itself failed: please tell your teacher."}' > "$results"
END
chmod +x "$work/setup.sh" "$work/run_autograder"

find "$work" -exec touch -t 202601010000 {} +
mkdir -p "$(dirname "$zip")"
target=$(cd "$(dirname "$zip")" && pwd)/$(basename "$zip")
rm -f "$target"
(cd "$work" && find . -type f | sort | zip -q -X -@ "$target")
echo "$zip: upload this as the autograder"
