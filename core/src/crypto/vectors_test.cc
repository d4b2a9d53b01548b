// Vectors made by others: C2SP Wycheproof (testvectors_v1) and RFC 9180, appendix A.  They are not part of
// this tree; COFFER_VECTORS names their folder.  Each test counts the cases it ran, so that a changed file or
// a loop over nothing fails.
#include <Poco/JSON/Object.h>
#include <Poco/JSON/Parser.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "coffer/crypto/hpke_receiver.h"
#include "coffer/crypto/hpke_sender.h"
#include "coffer/crypto/primitives.h"
#include "hpke_schedule.h"

namespace coffer {
namespace {

using Poco::JSON::Array;
using Poco::JSON::Object;

std::filesystem::path file(const std::string &name) {
  const char *folder = std::getenv("COFFER_VECTORS");
  return std::filesystem::path(folder ? folder : COFFER_DEFAULT_VECTORS) / name;
}

class Vectors : public testing::Test {
 protected:
  void SetUp() override {
    if (std::filesystem::exists(file("wycheproof-x25519.json"))) return;
    if (std::getenv("COFFER_VECTORS")) FAIL() << "COFFER_VECTORS names a folder without vectors";
    GTEST_SKIP() << "skipped: no vectors";
  }
};

Poco::Dynamic::Var parse(const std::string &name) {
  std::ifstream in(file(name));
  return Poco::JSON::Parser().parse(in);
}

Bytes bytes(const Object &o, const std::string &field) {
  const auto b = unhex(o.getValue<std::string>(field));
  if (!b) throw std::runtime_error("not hex: " + field);
  return *b;
}

std::string revealed(const Result<SecretBytes> &r) { return r ? hex(r->reveal()) : r.error().message; }

enum class Verdict { kValid, kInvalid, kAcceptable };

struct Case {
  const Object &group;
  const Object &test;
  int id;
  Verdict verdict;
  std::set<std::string> flags;
  bool valid() const { return verdict == Verdict::kValid; }
};

// How often each verdict was met.
struct Count {
  int valid = 0, invalid = 0, acceptable = 0;
  bool operator==(const Count &) const = default;
};
std::ostream &operator<<(std::ostream &out, const Count &c) {
  return out << c.valid << " valid, " << c.invalid << " invalid, " << c.acceptable << " acceptable";
}

Count for_each_case(const std::string &name, const std::function<void(const Case &)> &check) {
  Count count;
  const auto root = parse(name).extract<Object::Ptr>();
  for (const auto &g : *root->getArray("testGroups")) {
    const auto group = g.extract<Object::Ptr>();
    for (const auto &t : *group->getArray("tests")) {
      const auto test = t.extract<Object::Ptr>();
      const auto result = test->getValue<std::string>("result");
      Case c{*group, *test, test->getValue<int>("tcId"), Verdict::kInvalid, {}};
      if (result == "valid") c.verdict = Verdict::kValid, ++count.valid;
      if (result == "acceptable") c.verdict = Verdict::kAcceptable, ++count.acceptable;
      if (result == "invalid") ++count.invalid;
      for (const auto &f : *test->getArray("flags")) c.flags.insert(f.toString());
      SCOPED_TRACE(name + " case " + std::to_string(c.id) + " " + test->getValue<std::string>("comment"));
      check(c);
    }
  }
  EXPECT_EQ(count.valid + count.invalid + count.acceptable, root->getValue<int>("numberOfTests"));
  return count;
}

// ---- Wycheproof ----

Count check_aead(const std::string &name, size_t nonce_size) {
  return for_each_case(name, [&](const Case &c) {
    const Bytes nonce = bytes(c.test, "iv"), aad = bytes(c.test, "aad"), plaintext = bytes(c.test, "msg");
    Bytes ciphertext = bytes(c.test, "ct");
    const Bytes tag = bytes(c.test, "tag");
    ciphertext.insert(ciphertext.end(), tag.begin(), tag.end());
    Aead aead(bytes(c.test, "key"));
    const auto sealed = aead.seal(nonce, aad, plaintext);
    const auto opened = aead.open(nonce, aad, ciphertext);
    if (c.valid()) {
      ASSERT_EQ(nonce.size(), nonce_size);
      EXPECT_EQ(sealed.value(), ciphertext);
      EXPECT_EQ(revealed(opened), hex(plaintext));
    } else if (c.flags.contains("ModifiedTag")) {
      EXPECT_EQ(opened.error().code, ErrorCode::kDataLoss);
      EXPECT_NE(sealed.value(), ciphertext);
    } else {
      // A nonce that is wrong for this cipher.  The sizes 12 and 24 are the other cipher's, so with them the
      // message must fail as not authentic.
      ASSERT_TRUE(c.flags.contains("InvalidNonceSize"));
      ASSERT_NE(nonce.size(), nonce_size);
      const bool other_cipher = nonce.size() == 12 || nonce.size() == 24;
      EXPECT_EQ(opened.error().code, other_cipher ? ErrorCode::kDataLoss : ErrorCode::kInvalidArgument);
      ASSERT_EQ(sealed.has_value(), other_cipher);
      EXPECT_TRUE(other_cipher || sealed.error().code == ErrorCode::kInvalidArgument);
    }
  });
}

TEST_F(Vectors, ChaCha20Poly1305) {
  EXPECT_EQ(check_aead("wycheproof-chacha20_poly1305.json", 12), (Count{256, 69, 0}));
}

TEST_F(Vectors, XChaCha20Poly1305) {
  EXPECT_EQ(check_aead("wycheproof-xchacha20_poly1305.json", 24), (Count{246, 69, 0}));
}

TEST_F(Vectors, Ed25519IncludingTheUnreducedOnesThatBotan2Accepts) {
  std::set<int> unreduced = {63, 85};
  const Count count = for_each_case("wycheproof-ed25519.json", [&](const Case &c) {
    const Bytes key = bytes(*c.group.getObject("publicKey"), "pk");
    EXPECT_EQ(verify_raw(key, bytes(c.test, "msg"), bytes(c.test, "sig")), c.valid());
    if (!c.valid()) unreduced.erase(c.id);
  });
  EXPECT_EQ(count, (Count{88, 63, 0}));
  EXPECT_TRUE(unreduced.empty()) << "cases 63 and 85 are not what they were";
}

TEST_F(Vectors, HkdfSha256) {
  EXPECT_EQ(for_each_case("wycheproof-hkdf_sha256.json",
                          [](const Case &c) {
                            const auto okm = hkdf(bytes(c.test, "ikm"), bytes(c.test, "salt"),
                                                  bytes(c.test, "info"), c.test.getValue<size_t>("size"));
                            ASSERT_EQ(okm.has_value(), c.valid());
                            if (okm)
                              EXPECT_EQ(revealed(okm), c.test.getValue<std::string>("okm"));
                            else
                              EXPECT_EQ(okm.error().code, ErrorCode::kInvalidArgument);
                          }),
            (Count{83, 3, 0}));
}

TEST_F(Vectors, HmacSha256) {
  EXPECT_EQ(for_each_case("wycheproof-hmac_sha256.json",
                          [](const Case &c) {
                            // Half of the groups have tags cut to 128 bits.
                            const size_t size = c.group.getValue<size_t>("tagSize") / 8;
                            HmacSha256 mac(bytes(c.test, "key"));
                            const Hash tag = mac.update(bytes(c.test, "msg")).finish();
                            EXPECT_EQ(equal_in_constant_time(ByteSpan(tag).first(size), bytes(c.test, "tag")),
                                      c.valid());
                          }),
            (Count{66, 108, 0}));
}

TEST_F(Vectors, X25519) {
  int zero = 0;
  const Count count = for_each_case("wycheproof-x25519.json", [&](const Case &c) {
    const auto shared = x25519(bytes(c.test, "private"), bytes(c.test, "public"));
    if (c.flags.contains("ZeroSharedSecret")) {
      // "acceptable" in the file: RFC 7748 leaves the check open.  RFC 9180, section 7.1.4, demands it.
      ++zero;
      ASSERT_FALSE(shared.has_value());
      EXPECT_EQ(shared.error().code, ErrorCode::kInvalidArgument);
    } else {
      // The others that are "acceptable" have public keys on the twist or not in canonical form.  RFC 7748,
      // section 5, computes with them, and so do we.
      EXPECT_EQ(revealed(shared), c.test.getValue<std::string>("shared"));
    }
  });
  EXPECT_EQ(count, (Count{264, 0, 254}));
  EXPECT_EQ(zero, 31);
}

// ---- RFC 9180 ----

struct HpkeVector {
  explicit HpkeVector(const Object &o)
      : kdf(o.getValue<int>("kdf_id")),
        aead(o.getValue<int>("aead_id")),
        info(bytes(o, "info")),
        recipient{SecretBytes::copy_of(bytes(o, "skRm")), to_array<32>(bytes(o, "pkRm"))},
        ephemeral{SecretBytes::copy_of(bytes(o, "skEm")), to_array<32>(bytes(o, "pkEm"))},
        enc(to_array<32>(bytes(o, "enc"))),
        messages(*o.getArray("encryptions")) {}
  int kdf, aead;
  Bytes info;
  KeyPair recipient, ephemeral;
  PublicKey enc;
  Array messages;
};

TEST_F(Vectors, HpkeMessagesOfOurSuiteBothWays) {
  int suites = 0, messages = 0;
  const auto root = parse("rfc9180-x25519-base.json").extract<Array::Ptr>();
  for (const auto &v : *root) {
    HpkeVector vector(*v.extract<Object::Ptr>());
    if (vector.kdf != 1 || vector.aead != 3) continue;
    ++suites;
    auto receiver = HpkeReceiver::setup(vector.recipient.private_key.reveal(), vector.enc, vector.info);
    auto sender =
        HpkeSender::setup_with(std::move(vector.ephemeral), vector.recipient.public_key, vector.info);
    EXPECT_EQ(sender->enc(), vector.enc);
    for (const auto &m : vector.messages) {
      const auto &o = *m.extract<Object::Ptr>();
      const uint64_t sequence = sender->sequence();
      EXPECT_EQ(sender->seal(bytes(o, "aad"), bytes(o, "pt")).value(), bytes(o, "ct"));
      EXPECT_EQ(revealed(receiver->open(sequence, bytes(o, "aad"), bytes(o, "ct"))),
                o.getValue<std::string>("pt"));
      ++messages;
    }
  }
  EXPECT_EQ(suites, 1);
  EXPECT_EQ(messages, 257);  // beyond 255, so that a second byte of the sequence number is met
}

// The file has all pairs of KDF and AEAD.  The KEM has HKDF-SHA256 in each, so every shared secret can be
// checked; the key schedule where the suite's KDF is HKDF-SHA256 too.  Not ours, and left out: HKDF-SHA512
// (kdf 3) in the schedule, AES-GCM (aead 1, 2) for messages, and the exporter.
TEST_F(Vectors, HpkeSharedSecretsAndKeySchedulesOfAllSuites) {
  const std::map<int, size_t> key_sizes = {{1, 16}, {2, 32}, {3, 32}};
  int secrets = 0, schedules = 0, nonces = 0;
  const auto root = parse("rfc9180-x25519-base.json").extract<Array::Ptr>();
  for (const auto &v : *root) {
    const auto &o = *v.extract<Object::Ptr>();
    const HpkeVector vector(o);
    SCOPED_TRACE("kdf " + std::to_string(vector.kdf) + ", aead " + std::to_string(vector.aead));
    EXPECT_EQ(x25519_public(vector.recipient.private_key.reveal()).value(), vector.recipient.public_key);
    const auto dh = x25519(vector.ephemeral.private_key.reveal(), vector.recipient.public_key);
    const auto dh_of_recipient = x25519(vector.recipient.private_key.reveal(), vector.enc);
    EXPECT_EQ(revealed(dh), revealed(dh_of_recipient));
    const SecretBytes shared = hpke::shared_secret(*dh, vector.enc, vector.recipient.public_key);
    EXPECT_EQ(hex(shared.reveal()), o.getValue<std::string>("shared_secret"));
    ++secrets;
    const auto key_size = key_sizes.find(vector.aead);
    if (vector.kdf != 1 || key_size == key_sizes.end()) continue;
    const hpke::Context context =
        hpke::key_schedule(shared, vector.info, {static_cast<uint16_t>(vector.aead), key_size->second});
    EXPECT_EQ(hex(context.key.reveal()), o.getValue<std::string>("key"));
    EXPECT_EQ(hex(context.base_nonce.reveal()), o.getValue<std::string>("base_nonce"));
    ++schedules;
    // The other suites list only some sequence numbers, without saying which.
    if (vector.aead != 3) continue;
    for (uint64_t sequence = 0; sequence < vector.messages.size(); ++sequence, ++nonces)
      EXPECT_EQ(hex(hpke::nonce(context.base_nonce, sequence).value()),
                vector.messages.getObject(static_cast<unsigned>(sequence))->getValue<std::string>("nonce"));
  }
  EXPECT_EQ(secrets, 8);
  EXPECT_EQ(schedules, 3);
  EXPECT_EQ(nonces, 257);
}

}  // namespace
}  // namespace coffer
