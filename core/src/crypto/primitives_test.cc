#include "coffer/crypto/primitives.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>
#include <type_traits>

namespace coffer {
namespace {

Bytes pattern(size_t size, unsigned seed = 1) {
  Bytes out(size);
  for (uint8_t &b : out) {
    seed = seed * 1664525 + 1013904223;
    b = static_cast<uint8_t>(seed >> 24);
  }
  return out;
}

std::string text(const Result<SecretBytes> &r) { return r ? hex(r->reveal()) : r.error().message; }

// ---- random and compare ----

TEST(Random, FillsEveryByteOfAnySize) {
  for (const size_t size : {1, 7, 255, 256, 257, 1000}) {
    Bytes ever(size);  // a byte that stays zero 16 times was not written: 1 in 2^128
    for (int round = 0; round < 16; ++round) {
      Bytes now(size);
      random_fill(now);
      for (size_t i = 0; i < size; ++i) ever[i] |= now[i];
    }
    EXPECT_EQ(std::count(ever.begin(), ever.end(), 0), 0) << size;
  }
}

TEST(Random, DoesNotRepeat) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    seen.insert(hex(random_array<16>()));
    seen.insert(hex(random_secret(16).reveal()));
    seen.insert(hex(x25519_generate().public_key));
    seen.insert(hex(SigningKey::generate().public_key()));
  }
  EXPECT_EQ(seen.size(), 400u);
  EXPECT_EQ(random_secret(0).size(), 0u);
}

TEST(ConstantTimeCompare, AnyDifferingBitAndAnyOtherSizeIsUnequal) {
  const Bytes a = pattern(40);
  Bytes b = a;
  EXPECT_TRUE(equal_in_constant_time(a, b));
  for (size_t bit = 0; bit < b.size() * 8; ++bit) {
    b[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    EXPECT_FALSE(equal_in_constant_time(a, b)) << bit;
    b[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  EXPECT_FALSE(equal_in_constant_time(a, ByteSpan(a).first(39)));
  EXPECT_FALSE(equal_in_constant_time({}, a));
  EXPECT_TRUE(equal_in_constant_time({}, {}));
}

// Differences must not cancel out: all pairs of one byte, and the same difference in two places.
TEST(ConstantTimeCompare, DifferencesDoNotCancelOut) {
  for (int x = 0; x < 256; ++x)
    for (int y = 0; y < 256; ++y) {
      const Bytes a = {static_cast<uint8_t>(x), static_cast<uint8_t>(y)}, swapped = {a[1], a[0]};
      EXPECT_EQ(equal_in_constant_time(a, swapped), x == y);
    }
}

// ---- SHA-256, HMAC, HKDF ----

TEST(Sha256, GivesTheDigestsOfFips180) {
  EXPECT_EQ(hex(sha256({})), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(hex(sha256(as_bytes("abc"))), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(hex(sha256(as_bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"))),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

TEST(Hmac, GivesTheTagsOfRfc4231AndBeginsAnewWithTheSameKey) {
  HmacSha256 mac(as_bytes("Jefe"));
  for (int round = 0; round < 3; ++round)
    EXPECT_EQ(hex(mac.update(as_bytes("what do ya want ")).update(as_bytes("for nothing?")).finish()),
              "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
  // Case 6: a key longer than a block.
  EXPECT_EQ(hex(HmacSha256(Bytes(131, 0xaa))
                    .update(as_bytes("Test Using Larger Than Block-Size Key - Hash Key First"))
                    .finish()),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

TEST(Hmac, AKeyLongerThanABlockIsReplacedByItsHashAtAnySize) {
  const Bytes message = pattern(77);
  for (const size_t size : {65, 4096, 4097, 100000}) {  // Botan alone refuses more than 4096
    const Bytes key = pattern(size);
    EXPECT_EQ(HmacSha256(key).update(message).finish(), HmacSha256(sha256(key)).update(message).finish());
  }
  EXPECT_NE(HmacSha256(pattern(64)).update(message).finish(),
            HmacSha256(sha256(pattern(64))).update(message).finish());
  EXPECT_EQ(HmacSha256({}).update(message).finish(), HmacSha256(Bytes(64, 0)).update(message).finish());
}

TEST(Hkdf, GivesTheKeysOfRfc5869) {
  // A.1 and A.3
  EXPECT_EQ(hex(hkdf_extract(*unhex("000102030405060708090a0b0c"), Bytes(22, 0x0b)).reveal()),
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
  EXPECT_EQ(
      text(hkdf(Bytes(22, 0x0b), *unhex("000102030405060708090a0b0c"), *unhex("f0f1f2f3f4f5f6f7f8f9"), 42)),
      "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
  EXPECT_EQ(text(hkdf(Bytes(22, 0x0b), {}, {}, 42)),
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}

TEST(Hkdf, LengthsOutsideTheRfcAreRefusedAndTheLimitIsReached) {
  const SecretBytes prk = random_secret(32);
  for (const size_t size : {size_t{0}, size_t{255 * 32 + 1}, SIZE_MAX})
    EXPECT_EQ(hkdf_expand(prk.reveal(), {}, size).error().code, ErrorCode::kInvalidArgument);
  const std::string longest = text(hkdf_expand(prk.reveal(), {}, 255 * 32));
  EXPECT_EQ(longest.size(), 2u * 255 * 32);
  for (const size_t size : {1, 31, 32, 33, 64, 8159})  // shorter ones are its beginnings
    EXPECT_EQ(text(hkdf_expand(prk.reveal(), {}, size)), longest.substr(0, 2 * size));
}

// ---- X25519 ----

TEST(X25519, GivesTheSharedSecretOfRfc7748) {
  const Bytes a = *unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"),
              b = *unhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
  EXPECT_EQ(hex(x25519_public(a).value()),
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
  EXPECT_EQ(text(x25519(a, x25519_public(b).value())),
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
}

TEST(X25519, BothSidesAgree) {
  const KeyPair a = x25519_generate(), b = x25519_generate();
  EXPECT_EQ(text(x25519(a.private_key.reveal(), b.public_key)),
            text(x25519(b.private_key.reveal(), a.public_key)));
  EXPECT_EQ(x25519_public(a.private_key.reveal()).value(), a.public_key);
}

TEST(X25519, WrongSizesAndAllZeroResultsAreRefused) {
  const KeyPair k = x25519_generate();
  for (const size_t size : {0, 1, 31, 33, 64}) {
    const Bytes wrong(size, 9);
    EXPECT_EQ(x25519(wrong, k.public_key).error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(x25519(k.private_key.reveal(), wrong).error().code, ErrorCode::kInvalidArgument);
    EXPECT_EQ(x25519_public(wrong).error().code, ErrorCode::kInvalidArgument);
  }
  EXPECT_EQ(x25519(k.private_key.reveal(), Bytes(32, 0)).error().code, ErrorCode::kInvalidArgument);
}

// ---- Ed25519 ----

TEST(SigningKey, GivesThePublicKeyOfRfc8032AndItsSignatureVerifies) {
  // Section 7.1, test 3.
  const auto key =
      SigningKey::from_seed(*unhex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7"));
  const Bytes signature = *unhex(
      "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
      "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a");
  EXPECT_EQ(hex(key->public_key()), "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025");
  EXPECT_TRUE(verify_raw(key->public_key(), *unhex("af82"), signature));
}

TEST(SigningKey, SignsTheLabelAndTheMessageWithTheirLengths) {
  const SigningKey key = SigningKey::generate();
  const Signature s = key.sign("coffer test v1", as_bytes("message"));
  EXPECT_TRUE(verify(key.public_key(), "coffer test v1", as_bytes("message"), s));
  const std::string_view signed_text(
      "\0\0\0\x0e"
      "coffer test v1"
      "\0\0\0\x07"
      "message",
      4 + 14 + 4 + 7);
  EXPECT_TRUE(verify_raw(key.public_key(), as_bytes(signed_text), s));
}

TEST(SigningKey, ASignatureSaysNothingForAnotherLabelMessageOrKey) {
  const SigningKey key = SigningKey::generate(), other = SigningKey::generate();
  const Signature s = key.sign("ab", as_bytes("c"));
  EXPECT_TRUE(verify(key.public_key(), "ab", as_bytes("c"), s));
  EXPECT_FALSE(verify(key.public_key(), "a", as_bytes("bc"), s));  // the same bytes, cut elsewhere
  EXPECT_FALSE(verify(key.public_key(), "abc", {}, s));
  EXPECT_FALSE(verify(key.public_key(), "ab", as_bytes("d"), s));
  EXPECT_FALSE(verify(key.public_key(), "ab", {}, s));
  EXPECT_FALSE(verify(other.public_key(), "ab", as_bytes("c"), s));
}

TEST(SigningKey, AnyFlippedBitOfTheSignatureFails) {
  const SigningKey key = SigningKey::generate();
  Signature s = key.sign("label", as_bytes("message"));
  for (size_t bit = 0; bit < 512; ++bit) {
    s[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    EXPECT_FALSE(verify(key.public_key(), "label", as_bytes("message"), s)) << bit;
    s[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
  EXPECT_TRUE(verify(key.public_key(), "label", as_bytes("message"), s));
}

TEST(SigningKey, AddingTheGroupOrderToSDoesNotMakeASecondSignature) {
  const Bytes order = *unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
  const SigningKey key = SigningKey::generate();
  Signature s = key.sign("label", as_bytes("message"));
  unsigned carry = 0;
  for (size_t i = 0; i < 32; ++i) {
    carry += s[32 + i] + order[i];
    s[32 + i] = static_cast<uint8_t>(carry);
    carry >>= 8;
  }
  ASSERT_EQ(carry, 0u);
  EXPECT_FALSE(verify(key.public_key(), "label", as_bytes("message"), s));
}

TEST(SigningKey, WrongSizesAreRefused) {
  const SigningKey key = SigningKey::generate();
  const Signature s = key.sign("label", {});
  for (const size_t size : {0, 31, 33, 64})
    EXPECT_EQ(SigningKey::from_seed(Bytes(size, 1)).error().code, ErrorCode::kInvalidArgument);
  for (const size_t size : {0, 1, 32, 63})
    EXPECT_FALSE(verify(key.public_key(), "label", {}, ByteSpan(s).first(size)));
  Bytes longer(s.begin(), s.end());
  longer.push_back(0);
  EXPECT_FALSE(verify(key.public_key(), "label", {}, longer));
  EXPECT_FALSE(verify_raw(ByteSpan(key.public_key()).first(31), {}, s));
}

TEST(SigningKey, TheSeedRestoresTheKeyAndSignaturesAreDeterministic) {
  const SigningKey key = SigningKey::generate();
  const auto again = SigningKey::from_seed(key.seed().reveal());
  EXPECT_EQ(again->public_key(), key.public_key());
  EXPECT_EQ(again->sign("label", as_bytes("m")), key.sign("label", as_bytes("m")));
}

// ---- AEAD ----

static_assert(!std::is_copy_constructible_v<Aead>);

// The cipher is keyed once, and only start(nonce) begins a message.  That must give what a cipher keyed for
// each message gives, whatever came before: other sizes, other nonce sizes, a failure.
TEST(Aead, AKeyThatIsSetOnceGivesTheSameAsOneSetForEachMessage) {
  const Bytes key = pattern(32);
  Aead kept(key);
  for (size_t i = 0; i < 600; ++i) {
    const Bytes nonce = pattern(i % 2 ? 12 : 24, static_cast<unsigned>(i)), aad = pattern(i % 7 ? i % 50 : 0),
                plaintext = pattern(i % 5 ? i : 0);
    const auto sealed = kept.seal(nonce, aad, plaintext);
    ASSERT_EQ(sealed.value(), Aead(key).seal(nonce, aad, plaintext).value()) << i;
    ASSERT_EQ(text(kept.open(nonce, aad, *sealed)), hex(plaintext)) << i;
    if (i % 3 == 0) {
      Bytes damaged = *sealed;
      damaged[i % damaged.size()] ^= 0x40;
      ASSERT_EQ(kept.open(nonce, aad, damaged).error().code, ErrorCode::kDataLoss) << i;
      ASSERT_EQ(kept.open(pattern(13), aad, *sealed).error().code, ErrorCode::kInvalidArgument) << i;
      ASSERT_EQ(text(kept.open(nonce, aad, *sealed)), hex(plaintext)) << i;
    }
    ASSERT_EQ(text(Aead(key).open(nonce, aad, *sealed)), hex(plaintext)) << i;
  }
}

TEST(Aead, GivesTheCiphertextOfRfc8439) {
  // Section 2.8.2; the file of vectors has it too.
  Aead aead(*unhex("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f"));
  const auto sealed = aead.seal(*unhex("070000004041424344454647"), *unhex("50515253c0c1c2c3c4c5c6c7"),
                                as_bytes("Ladies and Gentlemen of the class of '99: If I could offer you "
                                         "only one tip for the future, sunscreen would be it."));
  EXPECT_EQ(
      hex(*sealed),
      "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b1a71"
      "de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3ff4def0"
      "8e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691");
}

TEST(Aead, OnlyNoncesOf12And24BytesAreTaken) {
  Aead aead(pattern(32));
  for (const size_t size : {0, 1, 8, 11, 13, 16, 23, 25, 32}) {  // Botan takes 8 as well
    EXPECT_EQ(aead.seal(Bytes(size), {}, {}).error().code, ErrorCode::kInvalidArgument) << size;
    EXPECT_EQ(aead.open(Bytes(size), {}, Bytes(16)).error().code, ErrorCode::kInvalidArgument) << size;
  }
}

TEST(Aead, AnyFlippedBitFails) {
  Aead aead(pattern(32));
  Bytes nonce = pattern(24), aad = pattern(9), ciphertext = aead.seal(nonce, aad, pattern(33)).value();
  for (Bytes *part : {&nonce, &aad, &ciphertext})
    for (size_t bit = 0; bit < part->size() * 8; ++bit) {
      (*part)[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      EXPECT_EQ(aead.open(nonce, aad, ciphertext).error().code, ErrorCode::kDataLoss);
      (*part)[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    }
  EXPECT_TRUE(aead.open(nonce, aad, ciphertext));
}

TEST(Aead, SealsAndOpensLargeValues) {
  Aead aead(pattern(32));
  const Bytes plaintext = pattern((1 << 20) + 3);
  const auto sealed = aead.seal(Bytes(12), {}, plaintext);
  const auto opened = aead.open(Bytes(12), {}, *sealed);
  ASSERT_TRUE(opened);
  EXPECT_TRUE(equal_in_constant_time(opened->reveal(), plaintext));
}

TEST(AeadDeathTest, AKeyOfAWrongSizeEndsTheProcess) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(Aead(Bytes(31)), "an AEAD key has 32 bytes");
}

// ---- threads ----

TEST(Threads, EachThreadGetsTheSameResults) {
  const Bytes data = pattern(500);
  const SigningKey key = SigningKey::from_seed(pattern(32)).value();
  const auto everything = [&] {
    Aead aead(pattern(32));
    return hex(sha256(data)) + hex(HmacSha256(data).update(data).finish()) +
           text(hkdf(data, data, data, 99)) + hex(key.sign("label", data)) +
           hex(aead.seal(Bytes(12), data, data).value());
  };
  const std::string expected = everything();
  std::vector<int> agreed(4);
  std::vector<std::thread> threads;
  for (int &count : agreed)
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) count += everything() == expected;
    });
  for (std::thread &t : threads) t.join();
  EXPECT_EQ(agreed, std::vector<int>(4, 50));
}

}  // namespace
}  // namespace coffer
