#include "coffer/vault/sealer.h"

#include "coffer/base/names.h"
#include "coffer/format/record.h"

namespace coffer {

Result<Sealer> Sealer::create(const AppKeyRecord &key, const SecretBytes &digest_key) {
  COFFER_TRY(HpkeSender sender, HpkeSender::setup(key.public_key, seal_info(key.app_id, key.epoch)));
  return Sealer(key, std::move(sender), DigestKey(digest_key));
}

Result<SealedSecret> Sealer::seal(std::string_view name, const SecretBytes &value) {
  if (value.size() > kMaxValue)
    return fail(ErrorCode::kInvalidArgument,
                "secret " + std::string(name) + ": the value has " + std::to_string(value.size()) +
                    " bytes, the limit is 1,048,576",
                "Keep large data in a file or an object store and put its key here.");
  SealedSecret out;
  out.name = name;
  COFFER_TRY(out.record, seal_record(sender_, key_.app_id, key_.epoch, name, value));
  out.hash = sha256(out.record);
  out.digest = digest_key_.digest(name, value);
  out.flags = value_flags(name, value);
  return out;
}

}  // namespace coffer
