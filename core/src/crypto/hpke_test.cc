#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <type_traits>

#include "coffer/crypto/hpke_receiver.h"
#include "coffer/crypto/hpke_sender.h"
#include "hpke_schedule.h"

namespace coffer {
namespace {

static_assert(!std::is_copy_constructible_v<HpkeSender>, "a copy would use a nonce twice");
static_assert(!std::is_copy_assignable_v<HpkeSender>);

PublicKey public_key(std::string_view text) { return to_array<32>(*unhex(text)); }
KeyPair key_pair(std::string_view private_key, std::string_view public_half) {
  return {SecretBytes::copy_of(*unhex(private_key)), public_key(public_half)};
}

// RFC 9180, appendix A.2.1: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305.
const std::string_view kInfo = "Ode on a Grecian Urn", kPlaintext = "Beauty is truth, truth beauty";
const std::string_view kEphemeralPublic = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a";
KeyPair ephemeral() {
  return key_pair("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600", kEphemeralPublic);
}
KeyPair recipient() {
  return key_pair("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb",
                  "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
}
const std::string_view kCiphertexts[] = {
    "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28",
    "6b53c051e4199c518de79594e1c4ab18b96f081549d45ce015be002090bb119e85285337cc95ba5f59992dc98c",
};

TEST(HpkeRfc9180A21, KeyScheduleGivesTheNumbersOfTheRfc) {
  const auto dh = x25519(ephemeral().private_key.reveal(), recipient().public_key);
  const SecretBytes shared = hpke::shared_secret(*dh, public_key(kEphemeralPublic), recipient().public_key);
  EXPECT_EQ(hex(shared.reveal()), "0bbe78490412b4bbea4812666f7916932b828bba79942424abb65244930d69a7");
  const hpke::Context context = hpke::key_schedule(shared, as_bytes(kInfo));
  EXPECT_EQ(hex(context.key.reveal()), "ad2744de8e17f4ebba575b3f5f5a8fa1f69c2a07f6e7500bc60ca6e3e3ec1c91");
  EXPECT_EQ(hex(context.base_nonce.reveal()), "5c4d98150661b848853b547f");
  EXPECT_EQ(hex(hpke::nonce(context.base_nonce, 1).value()), "5c4d98150661b848853b547e");
  EXPECT_EQ(hex(hpke::nonce(context.base_nonce, 256).value()), "5c4d98150661b848853b557f");
}

TEST(HpkeRfc9180A21, SenderGivesTheCiphertextsOfTheRfc) {
  auto sender = HpkeSender::setup_with(ephemeral(), recipient().public_key, as_bytes(kInfo));
  EXPECT_EQ(hex(sender->enc()), kEphemeralPublic);
  EXPECT_EQ(hex(sender->seal(as_bytes("Count-0"), as_bytes(kPlaintext)).value()), kCiphertexts[0]);
  EXPECT_EQ(hex(sender->seal(as_bytes("Count-1"), as_bytes(kPlaintext)).value()), kCiphertexts[1]);
  EXPECT_EQ(sender->sequence(), 2u);
}

TEST(HpkeRfc9180A21, ReceiverOpensTheMessagesOfTheRfcInAnyOrder) {
  auto receiver =
      HpkeReceiver::setup(recipient().private_key.reveal(), public_key(kEphemeralPublic), as_bytes(kInfo));
  for (const int i : {1, 0, 1}) {
    const auto opened = receiver->open(i, as_bytes("Count-" + std::to_string(i)), *unhex(kCiphertexts[i]));
    ASSERT_TRUE(opened) << opened.error().message;
    EXPECT_EQ(as_text(opened->reveal()), kPlaintext);
  }
}

// One message of a fresh context.  open_with() opens it after something was changed.
struct Message {
  KeyPair recipient = x25519_generate();
  HpkeSender sender = HpkeSender::setup(recipient.public_key, as_bytes("info")).value();
  PublicKey enc = sender.enc();
  Bytes info = {'i', 'n', 'f', 'o'}, aad = {'a', 'a', 'd'}, plaintext = {'v', 'a', 'l', 'u', 'e'};
  uint64_t sequence = 0;
  Bytes ciphertext = sender.seal(aad, plaintext).value();

  Result<SecretBytes> open() const {
    COFFER_TRY(auto receiver, HpkeReceiver::setup(recipient.private_key.reveal(), enc, info));
    return receiver.open(sequence, aad, ciphertext);
  }
};

void expect_not_authentic(const Message &m) {
  const auto opened = m.open();
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().code, ErrorCode::kDataLoss);
}

TEST(Hpke, ReceiverOpensWhatTheSenderSealed) {
  const Message m;
  EXPECT_EQ(hex(m.open().value().reveal()), hex(m.plaintext));
}

TEST(Hpke, BothHalvesAgreeForManyMessagesOfAllSizes) {
  const KeyPair recipient = x25519_generate();
  auto sender = HpkeSender::setup(recipient.public_key, {}).value();
  auto receiver = HpkeReceiver::setup(recipient.private_key.reveal(), sender.enc(), {}).value();
  for (size_t size = 0; size < 300; ++size) {
    const Bytes plaintext(size, static_cast<uint8_t>(size)), aad(300 - size, 7);
    const auto sealed = sender.seal(aad, plaintext);
    ASSERT_EQ(sealed->size(), size + 16);
    const auto opened = receiver.open(size, aad, *sealed);
    ASSERT_TRUE(opened) << opened.error().message;
    ASSERT_EQ(hex(opened->reveal()), hex(plaintext));
  }
}

TEST(Hpke, AnyFlippedBitOfTheCiphertextFails) {
  Message m;
  for (size_t bit = 0; bit < m.ciphertext.size() * 8; ++bit) {
    m.ciphertext[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    expect_not_authentic(m);
    m.ciphertext[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  EXPECT_TRUE(m.open());
}

// Except the highest one: X25519 masks it (RFC 7748, section 5), but enc goes into the KEM's context too.
TEST(Hpke, AnyFlippedBitOfEncFailsIncludingTheOneThatX25519Ignores) {
  Message m;
  for (size_t bit = 0; bit < 256; ++bit) {
    m.enc[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    expect_not_authentic(m);
    m.enc[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
}

TEST(Hpke, AnotherAadInfoSequenceOrKeyFails) {
  Message m;
  m.aad[0] ^= 1;
  expect_not_authentic(m);
  m.aad = {};
  expect_not_authentic(m);

  Message other_info;
  other_info.info[0] ^= 1;
  expect_not_authentic(other_info);
  other_info.info = {};
  expect_not_authentic(other_info);

  Message other_sequence;
  for (const uint64_t sequence : {uint64_t{1}, uint64_t{1} << 32, uint64_t{1} << 63, UINT64_MAX - 1}) {
    other_sequence.sequence = sequence;
    expect_not_authentic(other_sequence);
  }

  Message other_key;
  other_key.recipient = x25519_generate();
  expect_not_authentic(other_key);
}

TEST(Hpke, ACiphertextCutAnywhereFails) {
  Message m;
  while (!m.ciphertext.empty()) {
    m.ciphertext.pop_back();
    expect_not_authentic(m);
  }
}

TEST(Hpke, TwoSetupsGiveDifferentEncAndCiphertext) {
  const KeyPair recipient = x25519_generate();
  auto a = HpkeSender::setup(recipient.public_key, as_bytes("info")).value();
  auto b = HpkeSender::setup(recipient.public_key, as_bytes("info")).value();
  EXPECT_NE(a.enc(), b.enc());
  EXPECT_NE(a.seal({}, as_bytes("value")).value(), b.seal({}, as_bytes("value")).value());
}

TEST(Hpke, TheSameValueSealsDifferentlyUnderEachSequenceNumber) {
  Message m;
  EXPECT_EQ(m.sender.sequence(), 1u);
  EXPECT_NE(m.sender.seal(m.aad, m.plaintext).value(), m.ciphertext);
}

TEST(Hpke, APublicKeyOfLowOrderIsRefusedByBothHalves) {
  const PublicKey zero = {}, one = {1};
  for (const PublicKey &key : {zero, one}) {
    EXPECT_EQ(HpkeSender::setup(key, {}).error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(HpkeReceiver::setup(x25519_generate().private_key.reveal(), key, {}).error().code,
              ErrorCode::kInvalidArgument);
  }
}

TEST(Hpke, APrivateKeyOfAWrongSizeIsRefused) {
  const PublicKey enc = x25519_generate().public_key;
  for (const size_t size : {0, 31, 33, 64})
    EXPECT_EQ(HpkeReceiver::setup(Bytes(size, 1), enc, {}).error().code, ErrorCode::kInvalidArgument);
}

// RFC 9180, section 5.2: MessageLimitReached.  seal() takes its nonce from the same function before it
// counts, so its counter never passes the last number.
TEST(Hpke, TheLastSequenceNumberIsRefused) {
  SecretBytes base_nonce(12);
  EXPECT_EQ(hex(hpke::nonce(base_nonce, UINT64_MAX - 1).value()), "00000000fffffffffffffffe");
  EXPECT_EQ(hpke::nonce(base_nonce, UINT64_MAX).error().code, ErrorCode::kResourceExhausted);

  Message m;
  m.sequence = UINT64_MAX;
  EXPECT_EQ(m.open().error().code, ErrorCode::kResourceExhausted);
}

TEST(Hpke, NoErrorTextContainsWhatWasSealed) {
  Message m;
  m.ciphertext[0] ^= 1;
  EXPECT_THAT(m.open().error().message, testing::Not(testing::HasSubstr("value")));
}

}  // namespace
}  // namespace coffer
