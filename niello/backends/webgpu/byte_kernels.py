"""Small WGSL kernels for what WebGPU's own copies cannot do: parts of words, one buffer as source
and target, and commands that a word in memory switches off.

A storage buffer is reached in words of four bytes; each word is written by one invocation, and the
bytes of a word outside the target keep their value.
"""

from __future__ import annotations

import struct

THREADS = 256

_HEAD = f"""
@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {{
  let i = (group.x + group.y * groups.x) * {THREADS}u + thread;
  if (i >= p.words) {{ return; }}
  let first = p.start & 3u;
  let at = (p.start >> 2u) + i;
"""

# Bindings: target, source, parameters.
COPY = f"""struct P {{ start: u32, bytes: u32, words: u32, source: u32 }}
@group(0) @binding(0) var<storage, read_write> result: array<u32>;
@group(0) @binding(1) var<storage, read_write> source: array<u32>;
@group(0) @binding(2) var<uniform> p: P;
{_HEAD}
  if (((p.start | p.source | p.bytes) & 3u) == 0u) {{
    result[at] = source[(p.source >> 2u) + i];
    return;
  }}
  var word = result[at];
  for (var b = 0u; b < 4u; b++) {{
    let place = i * 4u + b;
    if (place >= first && place - first < p.bytes) {{
      let from_ = p.source + place - first;
      let byte = (source[from_ >> 2u] >> ((from_ & 3u) * 8u)) & 255u;
      word = (word & ~(255u << (b * 8u))) | (byte << (b * 8u));
    }}
  }}
  result[at] = word;
}}
"""

# Bindings: target, source, index, parameters: COPY at steps of bytes, chosen by the index.
SLICE = (
    COPY.replace("source: u32 }", "source: u32, step: u32, stride: u32, index: u32 }", 1)
    .replace("@binding(2) var<uniform>", "@binding(3) var<uniform>")
    .replace(
        "@group(0) @binding(3)",
        "@group(0) @binding(2) var<storage, read_write> chosen: array<u32>;\n@group(0) @binding(3)",
    )
    .replace(
        "  let i = ",
        "  let number = chosen[p.index];\n"
        "  let start = p.start + number * p.step;\n"
        "  let origin = p.source + number * p.stride;\n"
        "  let i = ",
    )
    .replace("(i >= p.words)", "(i >= ((start & 3u) + p.bytes + 3u) / 4u)")
    .replace("let first = p.start & 3u;", "let first = start & 3u;")
    .replace("let at = (p.start >> 2u) + i;", "let at = (start >> 2u) + i;")
    .replace("(p.start | p.source | p.bytes)", "(start | origin | p.bytes)")
    .replace("(p.source >> 2u)", "(origin >> 2u)")
    .replace("p.source + place", "origin + place")
)

# Bindings: a word, parameters. The word, moved by a step.
COUNT = """struct P { word: u32, step: u32 }
@group(0) @binding(0) var<storage, read_write> counter: array<u32>;
@group(0) @binding(1) var<uniform> p: P;
@compute @workgroup_size(1)
fn main() { counter[p.word] = counter[p.word] + p.step; }
"""

# Bindings: target, parameters. `even` and `odd` are the words to write, in turns.
FILL = f"""struct P {{ start: u32, bytes: u32, words: u32, even: u32, odd: u32 }}
@group(0) @binding(0) var<storage, read_write> result: array<u32>;
@group(0) @binding(1) var<uniform> p: P;
{_HEAD}
  let pattern = select(p.odd, p.even, (i & 1u) == 0u);
  let end = first + p.bytes;
  if (i * 4u >= first && i * 4u + 4u <= end) {{
    result[at] = pattern;
    return;
  }}
  var word = result[at];
  for (var b = 0u; b < 4u; b++) {{
    let place = i * 4u + b;
    if (place >= first && place < end) {{
      let mask = 255u << (b * 8u);
      word = (word & ~mask) | (pattern & mask);
    }}
  }}
  result[at] = word;
}}
"""

# Bindings: sizes of a grid, two words that decide, parameters. The grid, where neither is zero.
GATE = """struct P { word: u32, other: u32, slot: u32, x: u32, y: u32, z: u32 }
@group(0) @binding(0) var<storage, read_write> grid: array<u32>;
@group(0) @binding(1) var<storage, read> flag: array<u32>;
@group(0) @binding(2) var<storage, read> also: array<u32>;
@group(0) @binding(3) var<uniform> p: P;
@compute @workgroup_size(1)
fn main() {
  let on = flag[p.word] != 0u && also[p.other] != 0u;
  grid[p.slot] = select(0u, p.x, on);
  grid[p.slot + 1u] = select(0u, p.y, on);
  grid[p.slot + 2u] = select(0u, p.z, on);
}
"""


def words_touched(start: int, size: int) -> int:
    """Words of four bytes that hold a part of `size` bytes from `start` on."""
    return -(-((start & 3) + size) // 4)


def grid_of(words: int, most: int) -> tuple[int, int, int]:
    """Workgroups for that many words, in rows of at most `most`."""
    groups = -(-words // THREADS)
    rows = -(-groups // most)
    return (-(-groups // max(rows, 1)), rows, 1)


def copy_parameters(start: int, size: int, source: int) -> bytes:
    """The uniform of COPY: bytes from `source` of its window to `start` of the other."""
    return struct.pack("<4I", start, size, words_touched(start, size), source)


def fill_parameters(start: int, size: int, pattern: bytes) -> bytes:
    """The uniform of FILL; the pattern of 1, 2, 4 or 8 bytes begins at `start`."""
    phase = start & 3
    turned = bytes(pattern[(j - phase) % len(pattern)] for j in range(8))
    even, odd = struct.unpack("<2I", turned)
    return struct.pack("<5I", start, size, words_touched(start, size), even, odd)


def slice_parameters(
    start: int, size: int, source: int, steps: tuple[int, int], index: int
) -> bytes:
    """The uniform of SLICE: as COPY, the steps of target and source, and the word of the index. How
    many words a slice touches follows from where it begins."""
    return struct.pack("<7I", start, size, 0, source, *steps, index)


def count_parameters(word: int, step: int) -> bytes:
    """The uniform of COUNT."""
    return struct.pack("<Ii", word, step)


def gate_parameters(word: int, other: int, slot: int, grid: tuple[int, int, int]) -> bytes:
    """The uniform of GATE: words of the windows that decide, place of the grid, its sizes."""
    return struct.pack("<6I", word, other, slot, *grid)
