// Hides values in logs: each occurrence of a value becomes "[redacted]", also one in base64 (either alphabet,
// at any place of a longer text), hex, percent or form encoding (RFC 3986, HTML), or the escapes of JSON
// (RFC 8259).  The lines of a value of several count as values of their own.
//
// It finds what an app prints as it is or as encoders write it, not what somebody hides on purpose.  Thread
// rule: one thread at a time.
#ifndef COFFER_AGENT_REDACTOR_H
#define COFFER_AGENT_REDACTOR_H

#include <span>
#include <string>
#include <vector>

#include "coffer/base/secret_bytes.h"

namespace coffer {

class Redactor {
 public:
  static constexpr size_t kShortest = 6;  // bytes; of what is searched

  // The values are copied.  An app sees the decoded bytes of a secret that it gets as a base64 file: they are
  // a value too.
  explicit Redactor(std::span<const ByteSpan> values);

  // A value is too short to be searched, and not empty: show no log at all.
  bool withhold() const { return withhold_; }

  // The next bytes of one log; what can be told already is appended to `out`.  An end that may be the
  // beginning of a value is held back until more comes.
  void add(ByteSpan chunk, std::string &out);
  // The log ends here, or nothing came for a while; the next add() begins another one.
  void end(std::string &out);

 private:
  struct Found {
    size_t length = 0;  // of the longest value that begins there, as it is written; 0: none
    bool open = false;  // more text could make it a longer one
  };
  Found find(ByteSpan text, bool last) const;
  size_t sweep(ByteSpan text, bool last, std::string &out);
  void add_value(ByteSpan value);
  void add_pieces(ByteSpan value);

  std::vector<SecretBytes> values_;
  std::vector<ByteSpan> patterns_;  // into values_, sorted
  bool withhold_ = false;
  SecretBytes held_;     // what is not told yet
  size_t covered_ = 0;   // so many of its first bytes belong to a value that began before
  bool hidden_ = false;  // the byte before it was of a value
};

}  // namespace coffer
#endif
