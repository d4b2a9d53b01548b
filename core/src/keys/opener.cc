#include "coffer/keys/opener.h"

#include "coffer/format/record.h"

namespace coffer {

Result<SecretBytes> Opener::open(std::string_view name, ByteSpan bytes) {
  COFFER_TRY(const Record record, decode_record(bytes));
  if (record.epoch != epoch_)
    return fail(ErrorCode::kDataLoss, "record was sealed for epoch " + std::to_string(record.epoch));
  auto at = receivers_.find(record.enc);
  if (at == receivers_.end()) {
    COFFER_TRY(HpkeReceiver receiver,
               HpkeReceiver::setup(private_key_.reveal(), record.enc, seal_info(app_, epoch_)));
    at = receivers_.emplace(record.enc, std::move(receiver)).first;
  }
  COFFER_TRY(const SecretBytes padded,
             at->second.open(record.sequence, seal_aad(app_, epoch_, name), record.ciphertext));
  return unpad(padded);
}

}  // namespace coffer
