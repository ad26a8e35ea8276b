# What cuobjdump says of chapter 6's kernels, as a table: first the output of `cuobjdump -res-usage`,
# then that of `cuobjdump -sass`. Of each kernel the longest loop is taken, in the fused ones that of
# a tile, and in it the longest way from its first instruction to its last that goes round nothing:
# loops inside count once. Ways that copy 4 bytes at a time are left out: they are for sizes that 4
# does not divide. "a state": instructions for a token and a state of a thread, where it is known how
# many of them a loop works on. In the kernels of Mamba-2 the longest loop is that of a chunk; there the
# loops inside count as often as they are gone round: for 64 tokens, 64 channels and 128 states, that
# is twice, for two tiles of states. "words": of 4 bytes that a thread takes from shared memory or puts
# there, over a shuffle too; what goes from global memory to a tile comes by as well.

/^ Function /         { sub(/:$/, "", $2); about = plain($2) }
/^ +REG:/             { sub(/REG:/, "", $1); registers[about] = $1 }
/Function : /         { finish(); name = plain($3); count = 0 }
/^ +\/\*[0-9a-f]+\*\/ / {
    match($0, /\/\*[0-9a-f]+\*\//)
    at = substr($0, RSTART + 2, RLENGTH - 4)
    text = substr($0, RSTART + RLENGTH)
    sub(/;.*/, "", text)
    sub(/^ +/, "", text)
    place[hex(at)] = count
    said[count++] = text
}
END { finish() }

function plain(mangled) { # _Z10fused_16x17ScanJob: a length, a name, the parameters
    sub(/^_Z/, "", mangled)
    match(mangled, /^[0-9]+/)
    return substr(mangled, RLENGTH + 1, substr(mangled, 1, RLENGTH))
}

function hex(digits,   i, value) {
    for (i = 1; i <= length(digits); i++)
        value = 16 * value + index("0123456789abcdef", substr(digits, i, 1)) - 1
    return value
}

function target(text) { # of a branch, or -1
    if (text !~ /BRA/ || !match(text, /0x[0-9a-f]+ *$/)) return -1
    sub(/.*0x/, "", text)
    sub(/ +$/, "", text)
    return (hex(text) in place) ? place[hex(text)] : -1
}

function class(text) {
    sub(/^@!?U?P[0-9T]+ /, "", text)
    if (text ~ /^MUFU/)                              return "special"
    if (text ~ /^HMMA/)                              return "matrix"
    if (name ~ /^dual_[so]/ && text ~ /^(LD|ST)\.E/) return "shared" # wmma has one address for all
    if (text ~ /^(FFMA|FMUL|FADD|FMNMX)/)            return "float"
    if (text ~ /^(LDS|STS)/)                         return "shared"
    if (text ~ /^SHFL/)                              return "shuffle"
    if (text ~ /^(LDG|STG|LDL|STL|LD\.|ST\.)/)       return "global"
    return "other"
}

function words(text) {
    sub(/^@!?U?P[0-9T]+ /, "", text)
    if (text !~ /^(LDS|STS|SHFL|LDG|STG|LD\.|ST\.|LDGSTS)/) return 0
    return text ~ /^[A-Z.0-9a-z]*\.128/ ? 4 : text ~ /^[A-Z.0-9a-z]*\.64/ ? 2 : 1
}

function works_on(kernel) { # tokens times states of a thread, once round the loop
    if (kernel ~ /(16x1|fused_8x2|fused_16x[48])$/) return 128
    if (kernel ~ /(4x4|end_16x[48]|back_8x2)$/)     return 64
    if (kernel ~ /(8xn|back_8x8|back_8x16)$/)       return 32
    if (kernel ~ /^dual_(states|outputs)/)          return 64 * 64 * 128 / 128
    return 0
}

# The longest way from instruction `low` to `high`, forwards only: way[] and next_at[]. An instruction
# counts as often as `times` says.
function find_way(low, high,   i, to) {
    split("", way); split("", next_at)
    for (i = high; i >= low && low >= 0; i--) {
        way[i] = (i == high) ? times[i] : 0
        to = target(said[i])
        if (i < high && to > i && to <= high && way[to] > 0) { way[i] = way[to] + times[i]; next_at[i] = to }
        if (i < high && said[i] !~ /^(BRA|EXIT)/ && way[i + 1] > 0 && way[i + 1] + times[i] >= way[i]) { way[i] = way[i + 1] + times[i]; next_at[i] = i + 1 }
        if (said[i] ~ /LDGSTS\.E \[/) way[i] = 0
    }
}

function finish(   i, j, to, low, high, last, n, states) {
    if (name == "") return
    high = low = -1
    for (i = 0; i < count; i++) {
        times[i] = 1
        if (said[i] ~ /^EXIT/) last = i # what stands behind it is for lanes that come one by one
    }
    for (i = 0; i < last; i++) {
        to = target(said[i])
        if (to >= 0 && to < i && i - to > high - low) { low = to; high = i }
    }
    for (i = low + 1; name ~ /^dual_[so]/ && i < high; i++) {
        to = target(said[i])
        if (to < low || to >= i) continue
        for (j = to; j <= i; j++)
            times[j] *= 2
    }
    find_way(low, high)
    split("", n)
    for (i = low; low >= 0 && way[low] > 0; i = next_at[i]) {
        n[class(said[i])] += times[i]
        n["words"] += times[i] * words(said[i])
        if (i == high) break
    }
    if (heading++ == 0)
        printf "%-20s %9s %7s %7s %6s %6s %6s %7s %6s %6s %6s %8s %8s\n", "kernel", "registers", "a loop", "special", "float", "shared", "global", "shuffle", "matrix", "other", "words", "a state", "words"
    if (low >= 0 && way[low] > 0 && name != "race_sum") {
        states = works_on(name)
        if (name == "dual_carry") states = 64 * n["float"]
        printf "%-20s %9d %7d %7d %6d %6d %6d %7d %6d %6d %6d %8s %8s\n", name, registers[name], way[low], n["special"], n["float"], n["shared"], n["global"], n["shuffle"], n["matrix"], n["other"], n["words"], (states > 0) ? sprintf("%.1f", way[low] / states) : "-", (states > 0) ? sprintf("%.1f", n["words"] / states) : "-"
    }
    split("", place)
    name = ""
}
