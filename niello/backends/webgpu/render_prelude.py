"""Helper functions of generated WGSL; a module holds those that it uses, and what those use.

64-bit integers are vec2<u32>: x is the low word.
"""

from __future__ import annotations

import re

from niello.codegen.gpu.definitions import Definitions

_TEXT = """
var<private> nl_nothing: u32 = 0u;
fn nl_float(bits: u32) -> f32 { return bitcast<f32>(bits | nl_nothing); }
fn nl_opaque(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) | nl_nothing); }
fn nl_is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn nl_copysign(a: f32, b: f32) -> f32 {
  return bitcast<f32>((bitcast<u32>(a) & 0x7fffffffu) | (bitcast<u32>(b) & 0x80000000u));
}
fn nl_f16_to_f32(h: u32) -> f32 {
  let sign = (h & 0x8000u) << 16u;
  let rest = h & 0x7fffu;
  if (rest >= 0x7c00u) { return nl_float(sign | 0x7f800000u | ((rest & 0x3ffu) << 13u)); }
  if (rest < 0x400u) {
    let small = f32(rest) * 5.9604645e-8f;
    return bitcast<f32>(bitcast<u32>(small) | sign);
  }
  return bitcast<f32>(sign | ((rest << 13u) + 0x38000000u));
}
fn nl_f32_to_f16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) { return sign | 0x7e00u; }
  if (rest >= 0x477ff000u) { return sign | 0x7c00u; }
  if (rest < 0x38800000u) {
    // Subnormal: a multiple of 2^-24, rounded to even by hand.
    if (rest < 0x33000000u) { return sign; }
    let exponent = rest >> 23u;
    let mantissa = (rest & 0x7fffffu) | 0x800000u;
    let shift = 126u - exponent;
    let whole = mantissa >> shift;
    let left = mantissa & ((1u << shift) - 1u);
    let half = 1u << (shift - 1u);
    let up = select(0u, 1u, left > half || (left == half && (whole & 1u) == 1u));
    return sign | (whole + up);
  }
  return sign | ((rest - 0x38000000u + 0xfffu + ((rest >> 13u) & 1u)) >> 13u);
}
fn nl_f32_to_bf16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
fn nl_truncmod(a: f32, b: f32) -> f32 {
  // Exact, by subtracting multiples of b from the mantissa of a.
  let x = bitcast<u32>(a) & 0x7fffffffu;
  let y = bitcast<u32>(b) & 0x7fffffffu;
  let sign = bitcast<u32>(a) & 0x80000000u;
  if (x >= 0x7f800000u || y > 0x7f800000u || y == 0u) { return nl_float(0x7fc00000u); }
  if (x < y) { return a; }
  var ex = max(x >> 23u, 1u);
  let ey = max(y >> 23u, 1u);
  var mx = (x & 0x7fffffu) | select(0u, 0x800000u, (x >> 23u) > 0u);
  let my = (y & 0x7fffffu) | select(0u, 0x800000u, (y >> 23u) > 0u);
  mx = mx % my;
  while (ex > ey) {
    mx = (mx << 1u) % my;
    ex -= 1u;
  }
  if (mx == 0u) { return bitcast<f32>(sign | nl_nothing); }
  while (mx < 0x800000u && ex > 1u) {
    mx = mx << 1u;
    ex -= 1u;
  }
  let biased = select(0u, ex << 23u, mx >= 0x800000u);
  return bitcast<f32>(sign | biased | (mx & 0x7fffffu));
}
fn nl_floormod(a: f32, b: f32) -> f32 {
  if (b == 0.0f) { return 0.0f; }
  return a - floor(a / b) * b;
}
fn nl_scalb(x: f32, n: f32) -> f32 {
  // In two steps, of which the first is exact for x near one.
  let whole = clamp(i32(n), -250i, 250i);
  let half = whole >> 1u;
  let first = bitcast<f32>(bitcast<u32>(half + 127i) << 23u);
  let second = bitcast<f32>(bitcast<u32>(whole - half + 127i) << 23u);
  return x * first * second;
}
fn nl_truncdiv_i32(a: i32, b: i32) -> i32 {
  if (b == 0i) { return 0i; }
  if (b == -1i) { return 0i - a; }
  return a / b;
}
fn nl_truncmod_i32(a: i32, b: i32) -> i32 {
  if (b == 0i || b == -1i) { return 0i; }
  return a % b;
}
fn nl_floordiv_i32(a: i32, b: i32) -> i32 {
  let q = nl_truncdiv_i32(a, b);
  let r = nl_truncmod_i32(a, b);
  return select(q, q - 1i, r != 0i && ((r < 0i) != (b < 0i)));
}
fn nl_floormod_i32(a: i32, b: i32) -> i32 {
  let r = nl_truncmod_i32(a, b);
  return select(r, r + b, r != 0i && ((r < 0i) != (b < 0i)));
}
fn nl_floordiv_positive_i32(a: i32, b: i32) -> i32 {
  let q = a / b;
  return select(q, q - 1i, a - q * b < 0i);
}
fn nl_floormod_positive_i32(a: i32, b: i32) -> i32 {
  let r = a % b;
  return select(r, r + b, r < 0i);
}
fn nl_div_u32(a: u32, b: u32) -> u32 {
  if (b == 0u) { return 0u; }
  return a / b;
}
fn nl_mod_u32(a: u32, b: u32) -> u32 {
  if (b == 0u) { return 0u; }
  return a % b;
}
fn nl_mulhi(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let low = al * bl;
  let m1 = ah * bl + (low >> 16u);
  let m2 = al * bh + (m1 & 0xffffu);
  return ah * bh + (m1 >> 16u) + (m2 >> 16u);
}
fn nl_add64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let low = a.x + b.x;
  return vec2<u32>(low, a.y + b.y + select(0u, 1u, low < a.x));
}
fn nl_sub64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(a.x - b.x, a.y - b.y - select(0u, 1u, a.x < b.x));
}
fn nl_neg64(a: vec2<u32>) -> vec2<u32> { return nl_sub64(vec2<u32>(0u, 0u), a); }
fn nl_mul64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(a.x * b.x, nl_mulhi(a.x, b.x) + a.x * b.y + a.y * b.x);
}
fn nl_abs64(a: vec2<u32>) -> vec2<u32> {
  return select(a, nl_neg64(a), (a.y & 0x80000000u) != 0u);
}
fn nl_popcount64(a: vec2<u32>) -> vec2<u32> {
  return vec2<u32>(countOneBits(a.x) + countOneBits(a.y), 0u);
}
fn nl_lt_u64(a: vec2<u32>, b: vec2<u32>) -> bool {
  return a.y < b.y || (a.y == b.y && a.x < b.x);
}
fn nl_lt_i64(a: vec2<u32>, b: vec2<u32>) -> bool {
  let x = bitcast<i32>(a.y);
  let y = bitcast<i32>(b.y);
  return x < y || (x == y && a.x < b.x);
}
fn nl_shl(a: vec2<u32>, n: u32) -> vec2<u32> {
  if (n == 0u) { return a; }
  if (n >= 32u) { return vec2<u32>(0u, a.x << (n - 32u)); }
  return vec2<u32>(a.x << n, (a.y << n) | (a.x >> (32u - n)));
}
fn nl_shr_u64(a: vec2<u32>, n: u32) -> vec2<u32> {
  if (n == 0u) { return a; }
  if (n >= 32u) { return vec2<u32>(a.y >> (n - 32u), 0u); }
  return vec2<u32>((a.x >> n) | (a.y << (32u - n)), a.y >> n);
}
fn nl_shr_i64(a: vec2<u32>, n: u32) -> vec2<u32> {
  if (n == 0u) { return a; }
  let high = bitcast<i32>(a.y);
  if (n >= 32u) { return vec2<u32>(bitcast<u32>(high >> (n - 32u)), bitcast<u32>(high >> 31u)); }
  return vec2<u32>((a.x >> n) | (a.y << (32u - n)), bitcast<u32>(high >> n));
}
fn nl_divide64(a: vec2<u32>, b: vec2<u32>) -> vec4<u32> {
  // Quotient and remainder, bit by bit.
  if (a.y == 0u && b.y == 0u) { return vec4<u32>(a.x / b.x, 0u, a.x % b.x, 0u); }
  var q = vec2<u32>(0u, 0u);
  var r = vec2<u32>(0u, 0u);
  for (var n: i32 = 63; n >= 0; n -= 1) {
    let over = (r.y & 0x80000000u) != 0u;
    r = nl_shl(r, 1u);
    r.x |= nl_shr_u64(a, u32(n)).x & 1u;
    q = nl_shl(q, 1u);
    if (over || !nl_lt_u64(r, b)) {
      r = nl_sub64(r, b);
      q.x |= 1u;
    }
  }
  return vec4<u32>(q, r);
}
fn nl_div_u64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  if ((b.x | b.y) == 0u) { return vec2<u32>(0u, 0u); }
  return nl_divide64(a, b).xy;
}
fn nl_mod_u64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  if ((b.x | b.y) == 0u) { return vec2<u32>(0u, 0u); }
  return nl_divide64(a, b).zw;
}
fn nl_truncdiv_i64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let q = nl_div_u64(nl_abs64(a), nl_abs64(b));
  return select(q, nl_neg64(q), ((a.y ^ b.y) & 0x80000000u) != 0u);
}
fn nl_truncmod_i64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let r = nl_mod_u64(nl_abs64(a), nl_abs64(b));
  return select(r, nl_neg64(r), (a.y & 0x80000000u) != 0u);
}
fn nl_floordiv_i64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let q = nl_truncdiv_i64(a, b);
  let r = nl_truncmod_i64(a, b);
  let lower = (r.x | r.y) != 0u && ((r.y ^ b.y) & 0x80000000u) != 0u;
  return select(q, nl_sub64(q, vec2<u32>(1u, 0u)), lower);
}
fn nl_floormod_i64(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
  let r = nl_truncmod_i64(a, b);
  let other = (r.x | r.y) != 0u && ((r.y ^ b.y) & 0x80000000u) != 0u;
  return select(r, nl_add64(r, b), other);
}
fn nl_i32_to_i64(x: i32) -> vec2<u32> { return vec2<u32>(bitcast<u32>(x), bitcast<u32>(x >> 31u)); }
fn nl_i32_to_u64(x: i32) -> vec2<u32> { return vec2<u32>(bitcast<u32>(x), bitcast<u32>(x >> 31u)); }
fn nl_u32_to_i64(x: u32) -> vec2<u32> { return vec2<u32>(x, 0u); }
fn nl_u32_to_u64(x: u32) -> vec2<u32> { return vec2<u32>(x, 0u); }
fn nl_u64_to_f32(a: vec2<u32>) -> f32 {
  if (a.y == 0u) { return f32(a.x); }
  let zeros = countLeadingZeros(a.y);
  let top = nl_shl(a, zeros);
  // The bits below the top word only decide how it is rounded.
  let word = top.y | select(0u, 1u, top.x != 0u);
  return f32(word) * bitcast<f32>((159u - zeros) << 23u);
}
fn nl_i64_to_f32(a: vec2<u32>) -> f32 {
  let x = nl_u64_to_f32(nl_abs64(a));
  return select(x, -x, (a.y & 0x80000000u) != 0u);
}
fn nl_f32_to_i32(x: f32) -> i32 {
  if (nl_is_nan(x)) { return 0i; }
  if (x >= 2147483648.0f) { return 2147483647i; }
  if (x <= -2147483648.0f) { return -2147483647i - 1i; }
  return i32(x);
}
fn nl_magnitude(x: f32) -> vec2<u32> {
  // The whole part of |x| below 2^64.
  let bits = bitcast<u32>(x) & 0x7fffffffu;
  let exponent = i32(bits >> 23u) - 150i;
  let mantissa = vec2<u32>((bits & 0x7fffffu) | 0x800000u, 0u);
  if (exponent <= -24i) { return vec2<u32>(0u, 0u); }
  if (exponent < 0i) { return vec2<u32>(mantissa.x >> u32(-exponent), 0u); }
  return nl_shl(mantissa, u32(exponent));
}
fn nl_f32_to_i64(x: f32) -> vec2<u32> {
  if (nl_is_nan(x)) { return vec2<u32>(0u, 0u); }
  if (x >= 9223372036854775808.0f) { return vec2<u32>(0xffffffffu, 0x7fffffffu); }
  if (x <= -9223372036854775808.0f) { return vec2<u32>(0u, 0x80000000u); }
  let whole = nl_magnitude(x);
  return select(whole, nl_neg64(whole), x < 0.0f);
}
fn nl_f32_to_u64(x: f32) -> vec2<u32> {
  if (nl_is_nan(x) || x <= 0.0f) { return vec2<u32>(0u, 0u); }
  if (x >= 18446744073709551616.0f) { return vec2<u32>(0xffffffffu, 0xffffffffu); }
  return nl_magnitude(x);
}
"""


def _texts() -> dict[str, str]:
    """Each function by name, in order."""
    found: dict[str, str] = {}
    for part in re.split(r"\n(?=fn |var<private>)", _TEXT.strip()):
        name = re.match(r"(?:fn|var<private>) (\w+)", part)
        assert name is not None
        found[name.group(1)] = part
    return found


DEFINITIONS = Definitions(_texts())
