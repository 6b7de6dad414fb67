"""Helper functions of generated CUDA C++; a source holds those that it uses."""

from __future__ import annotations

from niello.codegen.gpu.definitions import Definitions

_TEXTS: dict[str, str] = {}


def _define(name: str, text: str) -> None:
    _TEXTS[name] = text.strip() + "\n"


_define(
    "nl_float16_to_float",
    """
__device__ inline float nl_float16_to_float(unsigned h) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"((unsigned short)h));
  return f;
}
""",
)
_define(
    "nl_float_to_float16",
    """
__device__ inline unsigned nl_float_to_float16(float f) {
  unsigned short h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
""",
)
_define(
    "nl_bfloat16_to_float",
    """
__device__ inline float nl_bfloat16_to_float(unsigned h) { return __uint_as_float(h << 16); }
""",
)
_define(
    "nl_float_to_bfloat16",
    """
__device__ inline unsigned nl_float_to_bfloat16(float f) {
  unsigned short h;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(f));
  return h;
}
""",
)
_define(
    "nl_to_int",
    """
template <class T> __device__ inline int nl_to_int(T x) {
  if (x != x) return 0;
  if (x >= (T)2147483648.0) return 2147483647;
  return x <= (T)-2147483648.0 ? -2147483647 - 1 : (int)x;
}
""",
)
_define(
    "nl_to_long",
    """
template <class T> __device__ inline long long nl_to_long(T x) {
  if (x != x) return 0;
  if (x >= (T)9223372036854775808.0) return 9223372036854775807ll;
  return x <= (T)-9223372036854775808.0 ? -9223372036854775807ll - 1 : (long long)x;
}
""",
)
_define(
    "nl_to_uint",
    """
template <class T> __device__ inline unsigned nl_to_uint(T x) { return (unsigned)nl_to_long(x); }
""",
)
_define(
    "nl_to_ulong",
    """
template <class T> __device__ inline unsigned long long nl_to_ulong(T x) {
  if (!(x > (T)0)) return 0;
  return x >= (T)18446744073709551616.0 ? 18446744073709551615ull : (unsigned long long)x;
}
""",
)
_define(
    "nl_double_as_ulong",
    """
__device__ inline unsigned long long nl_double_as_ulong(double x) {
  return (unsigned long long)__double_as_longlong(x);
}
""",
)
_define(
    "nl_ulong_as_double",
    """
__device__ inline double nl_ulong_as_double(unsigned long long x) {
  return __longlong_as_double((long long)x);
}
""",
)
_define(
    "nl_negative",
    """
__device__ inline int nl_negative(int a) { return (int)(0u - (unsigned)a); }
__device__ inline long long nl_negative(long long a) {
  return (long long)(0ull - (unsigned long long)a);
}
""",
)
_define(
    "nl_abs",
    """
template <class T> __device__ inline T nl_abs(T a) { return a < 0 ? nl_negative(a) : a; }
""",
)
_define(
    "nl_truncdiv",
    """
template <class T> __device__ inline T nl_truncdiv(T a, T b) {
  return b == 0 ? 0 : b == -1 ? nl_negative(a) : a / b;
}
""",
)
_define(
    "nl_truncmod",
    """
template <class T> __device__ inline T nl_truncmod(T a, T b) {
  return b == 0 || b == -1 ? 0 : a % b;
}
""",
)
_define(
    "nl_floordiv",
    """
template <class T> __device__ inline T nl_floordiv(T a, T b) {
  const T q = nl_truncdiv(a, b);
  const T r = nl_truncmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? q - 1 : q;
}
""",
)
_define(
    "nl_floormod",
    """
template <class T> __device__ inline T nl_floormod(T a, T b) {
  const T r = nl_truncmod(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
__device__ inline float nl_floormod(float a, float b) {
  return b == 0.0f ? 0.0f : a - floorf(a / b) * b;
}
__device__ inline double nl_floormod(double a, double b) {
  return b == 0.0 ? 0.0 : a - floor(a / b) * b;
}
""",
)
_define(
    "nl_floordiv_positive",
    """
template <class T> __device__ inline T nl_floordiv_positive(T a, T b) {
  const T q = a / b;
  return a - q * b < 0 ? q - 1 : q;
}
""",
)
_define(
    "nl_floormod_positive",
    """
template <class T> __device__ inline T nl_floormod_positive(T a, T b) {
  const T r = a % b;
  return r < 0 ? r + b : r;
}
""",
)
_define(
    "nl_div_unsigned",
    """
template <class T> __device__ inline T nl_div_unsigned(T a, T b) { return b == 0 ? 0 : a / b; }
""",
)
_define(
    "nl_mod_unsigned",
    """
template <class T> __device__ inline T nl_mod_unsigned(T a, T b) { return b == 0 ? 0 : a % b; }
""",
)

# --- tensor cores ---------------------------------------------------------------------------------
# Sixteen bytes from memory to shared memory, or zeros. What a thread has started since the last
# nl_copies_close is a group; nl_copies_wait waits until at most `left` groups, 0 to 3, are left.
_define(
    "nl_copy_16",
    """
__device__ inline void nl_copy_16(unsigned* to, const unsigned short* from, long long at, bool is) {
  const unsigned target = (unsigned)__cvta_generic_to_shared(to);
  const unsigned short* source = is ? from + at : from;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :: "r"(target), "l"(source), "r"(is ? 16 : 0) : "memory");
}
""",
)
_define(
    "nl_copies_close",
    """
__device__ inline void nl_copies_close() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
""",
)
_define(
    "nl_copies_wait",
    """
__device__ inline void nl_copies_wait(int left) {
  if (left == 0) asm volatile("cp.async.wait_group 0;" ::: "memory");
  if (left == 1) asm volatile("cp.async.wait_group 1;" ::: "memory");
  if (left == 2) asm volatile("cp.async.wait_group 2;" ::: "memory");
  if (left == 3) asm volatile("cp.async.wait_group 3;" ::: "memory");
}
""",
)
_define(
    "nl_put_half",
    """
__device__ inline void nl_put_half(unsigned* array, int at, unsigned value) {
  ((unsigned short*)array)[at] = (unsigned short)value;
}
""",
)
# Four pieces of 8 x 8 halves of shared memory: the address of row r of piece p is that of thread
# 8 p + r; every thread gets two neighbours of a row, or of a column.
_define(
    "nl_pieces",
    """
__device__ inline void nl_pieces(
    unsigned& a, unsigned& b, unsigned& c, unsigned& d, const unsigned* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
""",
)
_define(
    "nl_pieces_turned",
    """
__device__ inline void nl_pieces_turned(
    unsigned& a, unsigned& b, unsigned& c, unsigned& d, const unsigned* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
               : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}
""",
)
# Two float32, scaled by 2^33, as three pairs of bfloat16 each: the nearest, that of the rest, and
# that of what is left then.
_define(
    "nl_split",
    """
__device__ inline unsigned nl_split_off(float& x, float& y) {
  unsigned pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
  x -= __uint_as_float(pair << 16);
  y -= __uint_as_float(pair & 0xffff0000u);
  return pair;
}
__device__ inline void nl_split(float x, float y, unsigned& a, unsigned& b, unsigned& c) {
  x *= 8589934592.0f;
  y *= 8589934592.0f;
  a = nl_split_off(x, y);
  b = nl_split_off(x, y);
  c = nl_split_off(x, y);
}
""",
)
for _name, _kind in (("bfloat16", "bf16"), ("float16", "f16")):
    _define(
        f"nl_mma_{_name}",
        f"""
__device__ inline void nl_mma_{_name}(
    float& c0, float& c1, float& c2, float& c3,
    unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {{
  asm("mma.sync.aligned.m16n8k16.row.col.f32.{_kind}.{_kind}.f32 "
      "{{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
      : "+f"(c0), "+f"(c1), "+f"(c2), "+f"(c3)
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}}
""",
    )

DEFINITIONS = Definitions(_TEXTS)
