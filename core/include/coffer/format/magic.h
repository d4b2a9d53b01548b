// Each stored object begins with four letters that say what it is and in which version.
#ifndef COFFER_FORMAT_MAGIC_H
#define COFFER_FORMAT_MAGIC_H

#include "coffer/base/codec.h"
#include "coffer/base/result.h"

namespace coffer {

inline Encoder begin(std::string_view magic) {
  Encoder e;
  e.raw(as_bytes(magic));
  return e;
}

inline bool begins(Decoder &d, std::string_view magic) {
  if (as_text(d.raw(4)) == magic) return true;
  d.reject();
  return false;
}

inline std::unexpected<Error> malformed(std::string_view what) {
  return fail(ErrorCode::kDataLoss, std::string(what) + " is malformed");
}

// A byte that may only be 0 or 1.
inline bool read_flag(Decoder &d) {
  const uint8_t b = d.u8();
  if (b > 1) d.reject();
  return b == 1;
}

template <class T>
void write_list(Encoder &e, const std::vector<T> &list, auto &&write) {
  e.u32(static_cast<uint32_t>(list.size()));
  for (const T &item : list) write(e, item);
}

template <class T>
std::vector<T> read_list(Decoder &d, auto &&read) {
  std::vector<T> out;
  for (uint32_t n = d.u32(); n > 0 && d.ok(); --n) out.push_back(read(d));
  return out;
}

}  // namespace coffer
#endif
