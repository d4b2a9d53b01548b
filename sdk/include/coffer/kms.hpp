// coffer/kms.hpp - C++ face of "coffer.kms/1"; the contract of each call is in kms.h.
#ifndef COFFER_KMS_HPP
#define COFFER_KMS_HPP
#include "kms.h"
#include "plugin.hpp"

namespace coffer::sdk {

class Kms : public Instance {
 public:
  struct Keys {
    coffer_emit_key emit;
    void *ctx;
    bool operator()(const coffer_key_info &k) const { return emit(ctx, &k) == 0; }
  };

  virtual void keys(const Call &, std::string_view key, const Keys &) = 0;
  virtual void create(const Call &, std::string_view key, const Keys &) = 0;
  virtual void wrap(const Call &, std::string_view key, coffer_bytes plaintext, coffer_bytes context,
                    const Sink &ciphertext, const Sink &version, const Sink &annotations) = 0;
  virtual void unwrap(const Call &, const coffer_wrapped &, coffer_bytes context, const Sink &plaintext) = 0;

  const void *interface(std::string_view id) noexcept override {
    return id == COFFER_KMS_ID ? &kTable : nullptr;
  }

 private:
  static const coffer_kms kTable;
};

inline const coffer_kms Kms::kTable = {
    sizeof(coffer_kms),
    0,
    0,
    [](coffer_instance *i, const coffer_call *c, coffer_str key, coffer_emit_key emit, void *ctx) noexcept
        -> coffer_status { return guard(c, [&] { as<Kms>(i).keys(Call(c), view(key), {emit, ctx}); }); },
    [](coffer_instance *i, const coffer_call *c, coffer_str key, coffer_emit_key emit, void *ctx) noexcept
        -> coffer_status { return guard(c, [&] { as<Kms>(i).create(Call(c), view(key), {emit, ctx}); }); },
    [](coffer_instance *i, const coffer_call *c, coffer_str key, coffer_bytes plaintext, coffer_bytes context,
       const coffer_sink *ciphertext, const coffer_sink *version,
       const coffer_sink *annotations) noexcept -> coffer_status {
      return guard(c, [&] {
        as<Kms>(i).wrap(Call(c), view(key), plaintext, context, Sink(ciphertext), Sink(version),
                        Sink(annotations));
      });
    },
    [](coffer_instance *i, const coffer_call *c, const coffer_wrapped *w, coffer_bytes context,
       const coffer_sink *plaintext) noexcept -> coffer_status {
      return guard(c, [&] { as<Kms>(i).unwrap(Call(c), *w, context, Sink(plaintext)); });
    },
    nullptr,
    nullptr};

}  // namespace coffer::sdk
#endif
