#include "coffer/keys/opener.h"

#include "coffer/format/record.h"

namespace coffer {

Result<SecretBytes> Opener::open(std::string_view name, ByteSpan bytes) {
  COFFER_TRY(const Record record, decode_record(bytes));
  const auto key = keys_.find(record.epoch);
  if (key == keys_.end())
    return fail(ErrorCode::kDataLoss, "record was sealed for epoch " + std::to_string(record.epoch));
  const std::pair sender(record.epoch, record.enc);
  auto at = receivers_.find(sender);
  if (at == receivers_.end()) {
    COFFER_TRY(HpkeReceiver receiver,
               HpkeReceiver::setup(key->second.reveal(), record.enc, seal_info(app_, record.epoch)));
    at = receivers_.emplace(sender, std::move(receiver)).first;
  }
  COFFER_TRY(const SecretBytes padded,
             at->second.open(record.sequence, seal_aad(app_, record.epoch, name), record.ciphertext));
  return unpad(padded);
}

}  // namespace coffer
