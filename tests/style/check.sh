#!/bin/sh
# The rules that keep the house in order, each a function below. Prints every violation and fails if there is one.
set -u
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/found"

complain() { printf '%s\n' "$*" >>"$work/found"; }
sources() { git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do [ -f "$f" ] && echo "$f"; done; }

# Includes follow docs/layers.txt.
check_includes() {
    sources 'src/*.c' 'src/*.h' 'cli/*.c' 'cli/*.h' 'examples/*.c' | grep -v '_test\.c$' | while read -r file; do
        case $file in src/*) module=${file#src/} && module=${module%%/*} ;; *) module=${file%%/*} ;; esac
        allowed=$(sed -n "s/^$module://p" docs/layers.txt)
        sed -n 's/^#include "\([^"]*\)".*/\1/p' "$file" | while read -r header; do
            ok=
            case $header in
            quern/status.h | quern/config.h | quern/log.h) ok=1 ;;
            quern/*) case " $allowed " in *' quern '*) ok=1 ;; esac ;;
            */*)
                folder=${header%%/*}
                if [ "$folder" = "$module" ] || [ -f "$(dirname "$file")/$header" ]; then ok=1; fi
                if [ -z "$ok" ]; then
                    for a in $allowed; do
                        [ "$a" = "$folder" ] && ok=1
                        [ "$a" = "$header" ] && ok=1
                        case $header in "$a"/*) ok=1 ;; esac
                    done
                fi
                ;;
            *) [ -f "$(dirname "$file")/$header" ] && ok=1 ;;
            esac
            [ -n "$ok" ] || complain "$file includes $header, which docs/layers.txt does not allow for $module"
        done
    done
}

# The table itself has no cycle: a row names only modules above it.
check_layers() {
    sed -e '/^#/d' -e 's/:/ /' docs/layers.txt | awk '
        { for (i = 2; i <= NF; i++) { split($i, part, "/"); if (part[1] != "quern" && !(part[1] in above))
              printf "docs/layers.txt: %s may include %s, which is not above it\n", $1, $i } above[$1] }' >>"$work/found"
}

# Every public header compiles alone, as C11 and as C++17.
check_headers() {
    sources 'include/quern/*.h' | while read -r header; do
        gcc -std=c11 -Wall -Wextra -Werror -Iinclude -x c -fsyntax-only "$header" 2>"$work/log" || complain "$header does not compile alone as C11: $(head -n 1 "$work/log")"
        g++ -std=c++17 -Wall -Wextra -Werror -Iinclude -x c++ -fsyntax-only "$header" 2>"$work/log" || complain "$header does not compile alone as C++17: $(head -n 1 "$work/log")"
    done
}

# What the library exports starts with qn_ or qni_.
check_symbols() {
    library=${QUERN_BUILD:-build}/libquern.a
    [ -f "$library" ] || { echo "style: no $library, symbols not checked (./dev build first)" >&2; return; }
    nm -g --defined-only "$library" 2>/dev/null | awk 'NF == 3 && $2 ~ /[TDBRC]/ && $3 !~ /^(qn_|qni_)/ {print $3}' | sort -u |
        while read -r s; do complain "libquern exports $s; public names start with qn_ or qni_"; done
}

# A file has at most 1000 lines, a function at most 100 (70 is the guide).
check_lengths() {
    sources '*.c' '*.h' | while read -r file; do
        lines=$(wc -l <"$file")
        [ "$lines" -le 1000 ] || complain "$file has $lines lines; 1000 are the limit"
        awk -v file="$file" '
            /^[A-Za-z_].*\)$/ || /^[A-Za-z_].*\) *\{$/ { name = $0 }
            /^\{/ || /^[A-Za-z_].*\) *\{$/ { start = NR }
            /^\}/ && start { if (NR - start > 100) printf "%s:%d: a function of %d lines; 100 are the limit: %s\n", file, start, NR - start, name; start = 0 }
        ' "$file" >>"$work/found"
    done
}

# A public function that returns a status says its errors in the comment above its group.
check_errors() {
    sources 'include/quern/*.h' | grep -v status.h | while read -r file; do
        awk -v file="$file" '
            /^\/\*/ { comment = ""; inside = 1 }
            inside { comment = comment $0 }
            /\*\// { inside = 0 }
            /^qn_status [a-z_]*\(/ && comment !~ /Errors/ { printf "%s:%d: no Errors: line above %s\n", file, NR, $2 }
        ' "$file" >>"$work/found"
    done
}

# Every folder under src/ has a README.
check_readmes() {
    for folder in src/*/; do [ -f "${folder}README.md" ] || complain "$folder has no README.md"; done
}

# File names are unique, so that a message can name one.
check_names() {
    sources 'src/*.c' 'src/*.h' 'cli/*.c' | sed 's|.*/||' | sort | uniq -d | while read -r name; do complain "two files are called $name"; done
}

# Calls that have a home: the heap in core/alloc.c, files in core/io.c (but the log of a run, which grows line by line), printing in
# cli, no exit in the library.
check_calls() {
    sources 'src/*.c' | grep -v '_test\.c$' | while read -r file; do
        case $file in
        src/core/alloc.c) home='malloc|calloc|realloc|mmap' ;;
        src/core/io.c) home='open|mmap' ;;
        src/session/train/train_setup.c) home=fopen ;;
        src/session/bench/bench_disk.c | src/session/bench/bench_out_of_core.c) home=open ;;
        *) home=none ;;
        esac
        grep -nE '(^|[^a-z_A-Z>.])(malloc|calloc|realloc|strdup|mmap|open|fopen|exit|printf|puts)\(' "$file" |
            grep -vE "^[0-9]+: *(\*|//|/\*)" | grep -vE "(^|[^a-z_A-Z>.])($home)\(" |
            while read -r line; do complain "$file:$line: a call with a home elsewhere"; done
    done
}

check_marks() {
    sources '*.c' '*.h' '*.sh' dev | grep -v '^tests/style/' | while read -r file; do
        grep -nE '\b(TO''DO|FIX''ME|XX''X|HA''CK)\b' "$file" | while read -r line; do complain "$file:$line: unfinished work"; done
    done
}

check_format() {
    sources '*.c' '*.h' | xargs clang-format --dry-run --Werror 2>"$work/log" ||
        complain "clang-format differs (./dev fmt): $(sed -n 's/:.*//p' "$work/log" | sort -u | grep '\.[ch]$' | tr '\n' ' ')"
}

for rule in layers includes headers symbols lengths errors readmes names calls marks format; do check_$rule; done
if [ -s "$work/found" ]; then
    cat "$work/found"
    echo "style: $(wc -l <"$work/found") violations" >&2
    exit 1
fi
echo "style: every rule holds"
