// Rule 131: the key that signs checkpoints. It is never in the database; its public half is, for those who ask for it.
import {
  createPrivateKey,
  createPublicKey,
  hash as digest,
  generateKeyPairSync,
  type KeyObject,
  sign,
  verify,
} from "node:crypto";

export interface SigningKey {
  keyId: Buffer;
  /** SubjectPublicKeyInfo, DER. */
  publicKey: Buffer;
  sign(body: string): Buffer;
}

const KEY_ID_BYTES = 8;

/** The first bytes of the hash of the public key. */
export const keyIdOf = (publicKey: Buffer): Buffer => digest("sha256", publicKey, "buffer").subarray(0, KEY_ID_BYTES);

/** Reads PEM, PKCS8. Undefined for anything but a private key of Ed25519 without a password. */
export function readSigningKey(pem: string): SigningKey | undefined {
  let key: KeyObject;
  try {
    key = createPrivateKey(pem);
  } catch {
    return undefined;
  }
  if (key.asymmetricKeyType !== "ed25519") return undefined;
  const publicKey = createPublicKey(key).export({ type: "spki", format: "der" });
  return { keyId: keyIdOf(publicKey), publicKey, sign: (body) => sign(null, Buffer.from(body), key) };
}

/** A new key as PEM, PKCS8. */
export const newSigningKey = (): string =>
  generateKeyPairSync("ed25519").privateKey.export({ type: "pkcs8", format: "pem" }) as string;

/** A public key as PEM, as openssl reads it. */
export const publicKeyToPem = (publicKey: Buffer): string =>
  createPublicKey({ key: publicKey, format: "der", type: "spki" }).export({ type: "spki", format: "pem" }) as string;

/** A public key that verifies. */
export interface VerifyingKey {
  keyId: Buffer;
  verifies(body: string, signature: Buffer): boolean;
}

/** Reads SubjectPublicKeyInfo, DER. Undefined for anything but a public key of Ed25519. */
export function readVerifyingKey(publicKey: Buffer): VerifyingKey | undefined {
  try {
    const key = createPublicKey({ key: publicKey, format: "der", type: "spki" });
    if (key.asymmetricKeyType !== "ed25519") return undefined;
    const spki = key.export({ type: "spki", format: "der" });
    return { keyId: keyIdOf(spki), verifies: (body, signature) => verify(null, Buffer.from(body), key, signature) };
  } catch {
    return undefined;
  }
}
