/* Installs firmware over CoAP with libcoap, OpenSSL and cJSON: a look for an update, and what the next start does.
 *
 *   LIBRARIES="libcoap-3-openssl libcjson libcrypto"
 *   gcc -Wall -Wextra -o coap_update coap_update.c $(pkg-config --cflags --libs $LIBRARIES)
 *   ./coap_update HOST PORT DEVICE MODEL
 *
 * The folder is the flash of the board, with ca.pem, device.pem, device.key and the keys maker.pub and command.pub.
 * The program ends where a board restarts; the next start goes on. docs/how-to/write-a-device-in-c.md has the steps. */
#include <cjson/cJSON.h>
#include <coap3/coap.h>
#include <netdb.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 1024, EXPONENT = 6, BOOTS = 3 };

static const char *server;
static coap_session_t *session;
static coap_context_t *context;

// --- the flash: two slots, and a file that says which one is started -----------------------------------------------

// The boot record: the active slot, the one on trial or '-', its starts left, the highest seq that has proved itself,
// what is in the slots, the update under way, and how it has ended until the server knows.
static struct {
  char active, trying;
  int left;
  long highest, seq[2];
  char version[2][65], execution[300], campaign[130], result[20];
} boot = {'a', '-', 0, 1, {1, 0}, {"1.0.0", "-"}, "-", "-", "-"};

// Written beside and renamed: after a loss of power the old or the new record is there, complete.
static void save(void) {
  FILE *file = fopen("boot.new", "w");
  fprintf(file, "%c %c %d %ld %ld %ld %s %s %s %s %s\n", boot.active, boot.trying, boot.left, boot.highest, boot.seq[0],
          boot.seq[1], boot.version[0], boot.version[1], boot.execution, boot.campaign, boot.result);
  fflush(file);
  fsync(fileno(file));
  fclose(file);
  rename("boot.new", "boot");
}

static void load(void) {
  FILE *file = fopen("boot", "r");
  if (file == NULL)
    return; // as it left the factory
  if (fscanf(file, "%c %c %d %ld %ld %ld %64s %64s %299s %129s %19s", &boot.active, &boot.trying, &boot.left,
             &boot.highest, &boot.seq[0], &boot.seq[1], boot.version[0], boot.version[1], boot.execution,
             boot.campaign, boot.result) != 11)
    exit(1);
  fclose(file);
}

// What the board's boot loader does: an image on trial is started as often as its counter says, then the old one again.
static char start(void) {
  load();
  if (boot.trying == '-')
    return boot.active;
  if (boot.left == 0) {
    boot.trying = '-';
    strcpy(boot.result, "boot_failed");
  } else
    boot.left--; // counted before the start, so that an image that hangs is counted too
  save();
  return boot.trying == '-' ? boot.active : boot.trying;
}

static const char *spare(void) { return boot.active == 'a' ? "slot-b" : "slot-a"; }

static long length_of(const char *path) {
  struct stat found;
  return stat(path, &found) == 0 ? (long)found.st_size : 0;
}

static void hex_of(const unsigned char *digest, char *hex) {
  for (int at = 0; at < 32; at++)
    sprintf(hex + 2 * at, "%02x", digest[at]);
}

// SHA-256 of a file, read piece by piece.
static void digest_of(const char *path, char *hex) {
  unsigned char piece[BLOCK], digest[32];
  EVP_MD_CTX *md = EVP_MD_CTX_new();
  FILE *file = fopen(path, "rb");
  EVP_DigestInit_ex(md, EVP_sha256(), NULL);
  for (size_t got; file != NULL && (got = fread(piece, 1, sizeof piece, file)) > 0;)
    EVP_DigestUpdate(md, piece, got);
  EVP_DigestFinal_ex(md, digest, NULL);
  EVP_MD_CTX_free(md);
  if (file != NULL)
    fclose(file);
  hex_of(digest, hex);
}

// --- what is signed ------------------------------------------------------------------------------------------------

// Decodes base64 of a JSON string; the bytes and their number. free() them.
static unsigned char *decoded(const cJSON *text, int *length) {
  const char *from = cJSON_IsString(text) ? text->valuestring : "";
  size_t count = strlen(from);
  unsigned char *bytes = calloc(count + 4, 1);
  *length = EVP_DecodeBlock(bytes, (const unsigned char *)from, (int)count);
  for (size_t at = count; at > 0 && from[at - 1] == '='; at--)
    --*length;
  return bytes;
}

// The payload of a DSSE envelope that a key has signed, and its digest; NULL for any other. The signature is over type
// and payload, each after its length.
static cJSON *opened(const cJSON *envelope, const char *kind, const char *key_file, char *digest) {
  const cJSON *each;
  FILE *file = fopen(key_file, "r");
  EVP_PKEY *key = file == NULL ? NULL : PEM_read_PUBKEY(file, NULL, NULL, NULL);
  int length, size, good = 0;
  unsigned char *payload = decoded(cJSON_GetObjectItem(envelope, "payload"), &length), hash[32];
  unsigned char *signed_bytes = malloc((size_t)(length < 0 ? 0 : length) + 200);
  if (length > 0 && key != NULL) {
    int head = sprintf((char *)signed_bytes, "DSSEv1 %zu %s %d ", strlen(kind), kind, length);
    memcpy(signed_bytes + head, payload, (size_t)length);
    cJSON_ArrayForEach(each, cJSON_GetObjectItem(envelope, "signatures")) {
      unsigned char *signature = decoded(cJSON_GetObjectItem(each, "sig"), &size);
      EVP_MD_CTX *md = EVP_MD_CTX_new();
      good |= size == 64 && EVP_DigestVerifyInit(md, NULL, NULL, NULL, key) == 1 &&
              EVP_DigestVerify(md, signature, 64, signed_bytes, (size_t)(head + length)) == 1;
      EVP_MD_CTX_free(md);
      free(signature);
    }
    EVP_Digest(payload, (size_t)length, hash, NULL, EVP_sha256(), NULL);
    hex_of(hash, digest);
  }
  if (file != NULL)
    fclose(file);
  EVP_PKEY_free(key);
  cJSON *found = good ? cJSON_ParseWithLength((char *)payload, (size_t)length) : NULL;
  free(payload);
  free(signed_bytes);
  return found;
}

static const char *text(const cJSON *object, const char *name) {
  const cJSON *found = cJSON_GetObjectItem(object, name);
  return cJSON_IsString(found) ? found->valuestring : "";
}

static double number(const cJSON *object, const char *name) {
  const cJSON *found = cJSON_GetObjectItem(object, name);
  return cJSON_IsNumber(found) ? found->valuedouble : 0;
}

// Why the image is not installed: a code, or NULL. Times of the wire compare as text, so this board needs no clock: it
// takes the time that the server has signed. A product remembers the latest one, and compares with that too.
static const char *refusal(const cJSON *offer, const cJSON *manifest, const char *digest, const cJSON *assignment,
                           const char *device, const char *model) {
  const cJSON *each;
  int fits = 0;
  if (manifest == NULL || assignment == NULL || strcmp(text(manifest, "format"), "fleetcore.firmware/1") != 0 ||
      strcmp(text(assignment, "device"), device) != 0 || strcmp(text(assignment, "manifest_sha256"), digest) != 0 ||
      strcmp(text(assignment, "execution"), text(offer, "execution")) != 0)
    return "signature_invalid";
  cJSON_ArrayForEach(each, cJSON_GetObjectItem(manifest, "models")) fits |= strcmp(each->valuestring, model) == 0;
  if (!fits || cJSON_GetObjectItem(manifest, "component") != NULL) // this board has one component
    return "model_mismatch";
  if (strcmp(text(assignment, "issued"), text(manifest, "expires")) >= 0)
    return "manifest_expired";
  if (number(manifest, "seq") < boot.highest)
    return "rollback_refused";
  const cJSON *required = cJSON_GetObjectItem(manifest, "requires");
  if (cJSON_GetObjectItem(required, "components") != NULL ||
      number(required, "seq") > boot.seq[boot.active - 'a'])
    return "requires_unmet";
  return NULL;
}

// --- the wire ------------------------------------------------------------------------------------------------------

static struct { int done; coap_pdu_code_t code; unsigned more; size_t length; uint8_t bytes[2 * BLOCK]; } answer;

static coap_response_t answered(coap_session_t *of, const coap_pdu_t *sent, const coap_pdu_t *received,
                                const coap_mid_t mid) {
  (void)of; (void)sent; (void)mid;
  const uint8_t *data;
  coap_block_t block = {0};
  answer.length = 0;
  if (coap_get_data(received, &answer.length, &data) && answer.length <= sizeof answer.bytes)
    memcpy(answer.bytes, data, answer.length);
  answer.more = coap_get_block(received, COAP_OPTION_BLOCK2, &block) && block.m;
  answer.code = coap_pdu_get_code(received);
  answer.done = 1;
  return COAP_RESPONSE_OK;
}

static void lost(coap_session_t *of, const coap_pdu_t *sent, const coap_nack_reason_t reason, const coap_mid_t mid) {
  (void)of; (void)sent; (void)mid;
  fprintf(stderr, "no answer: %d\n", (int)reason);
  exit(1); // the next start goes on
}

static int is_server(const char *name, const uint8_t *cert, size_t length, coap_session_t *of, unsigned depth,
                     int validated, void *arg) {
  (void)cert; (void)length; (void)of; (void)validated; (void)arg;
  return depth != 0 || strcmp(name, server) == 0;
}

// A request and its answer: the class of its code. `path` is cut at its slashes; a GET asks for one block.
static int ask(coap_pdu_code_t method, const char *path, long block, const char *body) {
  uint8_t buffer[4];
  char segments[400];
  static uint64_t token;
  coap_pdu_t *pdu = coap_new_pdu(COAP_MESSAGE_CON, method, session);
  token++;
  coap_add_token(pdu, sizeof token, (const uint8_t *)&token);
  snprintf(segments, sizeof segments, "%s", path);
  for (char *each = strtok(segments, "/"); each != NULL; each = strtok(NULL, "/"))
    coap_add_option(pdu, COAP_OPTION_URI_PATH, strlen(each), (const uint8_t *)each);
  if (body != NULL) {
    const uint8_t json = COAP_MEDIATYPE_APPLICATION_JSON;
    coap_add_option(pdu, COAP_OPTION_CONTENT_FORMAT, 1, &json);
    coap_add_data(pdu, strlen(body), (const uint8_t *)body);
  } else {
    unsigned value = (unsigned)block << 4 | EXPONENT;
    coap_add_option(pdu, COAP_OPTION_BLOCK2, coap_encode_var_safe(buffer, sizeof buffer, value), buffer);
  }
  answer.done = 0;
  if (coap_send(session, pdu) == COAP_INVALID_MID)
    exit(1);
  while (!answer.done)
    coap_io_process(context, 1000);
  return COAP_RESPONSE_CLASS(answer.code);
}

// A state of the update, with one member more.
static void report(const char *state, const char *name, const char *value) {
  char body[800];
  snprintf(body, sizeof body, "{\"execution\": \"%s\", \"campaign\": \"%s\", \"state\": \"%s\", \"%s\": \"%s\"}",
           boot.execution, boot.campaign, state, name, value);
  printf("%s%s%s\n", state, *value ? " " : "", value);
  ask(COAP_REQUEST_CODE_POST, "device/v1/firmware/status", 0, body);
}

// After a start the image has connected, which is its proof here: it becomes the active one, by one write. Then the
// server is told, as often as it takes; a repeat changes nothing there.
static void settle(char running) {
  char body[300];
  int at = running - 'a';
  if (boot.trying == running) {
    boot.active = running;
    boot.trying = '-';
    boot.highest = boot.seq[at] > boot.highest ? boot.seq[at] : boot.highest;
    strcpy(boot.result, "succeeded");
    save();
  }
  snprintf(body, sizeof body,
           "{\"firmware\": {\"version\": \"%s\", \"seq\": %ld, \"highest_seq\": %ld, \"trust\": 1}}",
           boot.version[at], boot.seq[at], boot.highest);
  ask(COAP_REQUEST_CODE_IPATCH, "d/r", 0, body);
  if (strcmp(boot.result, "succeeded") == 0)
    report("succeeded", "version", boot.version[at]);
  else if (strcmp(boot.result, "-") != 0)
    report("failed", "code", boot.result);
  strcpy(boot.result, "-");
  save();
}

// --- the update ----------------------------------------------------------------------------------------------------

// The offer, block by block; NULL where none is open.
static cJSON *look(void) {
  char *whole = NULL;
  size_t length = 0;
  long block = 0;
  do {
    if (ask(COAP_REQUEST_CODE_GET, "d/f", block++, NULL) != 2 || length > 1 << 20)
      break;
    whole = realloc(whole, length + answer.length + 1);
    memcpy(whole + length, answer.bytes, answer.length);
    length += answer.length;
  } while (answer.more);
  cJSON *found = whole == NULL ? NULL : cJSON_ParseWithLength(whole, length);
  free(whole);
  return found;
}

// Loads what is missing of the image into the spare slot: the code with which it fails, or NULL.
static const char *download(const char *path, long size, const char *expected) {
  char found[65];
  long at = length_of(spare()) / BLOCK * BLOCK, begun = at;
  truncate(spare(), at);
  FILE *file = fopen(spare(), "ab");
  for (; at < size; at += (long)answer.length) {
    if (ask(COAP_REQUEST_CODE_GET, path, at / BLOCK, NULL) != 2)
      exit(1); // the next start goes on
    if (at + (long)answer.length > size || answer.length == 0) {
      fclose(file);
      remove(spare());
      return "size_mismatch"; // endless data ends here
    }
    fwrite(answer.bytes, 1, answer.length, file);
    fflush(file);
  }
  fsync(fileno(file));
  fclose(file);
  printf("loaded from byte %ld on\n", begun);
  digest_of(spare(), found);
  if (strcmp(found, expected) == 0)
    return NULL;
  remove(spare());
  if (begun > 0)
    exit(1); // what was there may be damaged: the next start loads it all
  return "hash_mismatch";
}

// What is done with an offer, whose manifest is genuine where there is no `code` to refuse it with.
static void install(const cJSON *offer, const cJSON *manifest, const char *code) {
  char running[65];
  digest_of(boot.active == 'a' ? "slot-a" : "slot-b", running);
  if (code == NULL && strcmp(running, text(manifest, "sha256")) == 0) {
    report("succeeded", "version", text(manifest, "version")); // it runs already
    return;
  }
  if (code == NULL) {
    report("accepted", "reason", "");
    report("downloading", "reason", "");
    code = download(text(offer, "path"), (long)number(manifest, "size"), text(manifest, "sha256"));
  }
  if (code != NULL) {
    report("rejected", "code", code);
    return;
  }
  report("installing", "reason", "");
  boot.trying = boot.active == 'a' ? 'b' : 'a';
  boot.left = BOOTS;
  boot.seq[boot.trying - 'a'] = (long)number(manifest, "seq");
  snprintf(boot.version[boot.trying - 'a'], sizeof *boot.version, "%s", text(manifest, "version"));
  save();
  report("rebooting", "reason", "");
}

static void update(const char *device, const char *model) {
  char digest[65], ignored[65];
  cJSON *body = look(), *offer = cJSON_GetObjectItem(body, "offer");
  if (!cJSON_IsObject(offer)) {
    puts("nothing to install");
    cJSON_Delete(body);
    return;
  }
  if (strcmp(boot.execution, text(offer, "execution")) != 0) {
    remove(spare()); // another update than the one that was begun
    snprintf(boot.execution, sizeof boot.execution, "%s", text(offer, "execution"));
    snprintf(boot.campaign, sizeof boot.campaign, "%s", text(offer, "campaign"));
    save();
  }
  cJSON *manifest = opened(cJSON_GetObjectItem(offer, "manifest"), "application/vnd.fleetcore.firmware+json",
                           "maker.pub", digest);
  cJSON *assignment = opened(cJSON_GetObjectItem(offer, "assignment"), "application/vnd.fleetcore.assignment+json",
                             "command.pub", ignored);
  install(offer, manifest, refusal(offer, manifest, digest, assignment, device, model));
  cJSON_Delete(body);
  cJSON_Delete(manifest);
  cJSON_Delete(assignment);
}

int main(int argc, char **argv) {
  struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_DGRAM}, *found;
  coap_dtls_pki_t pki = {.version = COAP_DTLS_PKI_SETUP_VERSION, .verify_peer_cert = 1,
                         .validate_cn_call_back = is_server};
  coap_address_t address;
  if (argc != 5) {
    fprintf(stderr, "usage: %s HOST PORT DEVICE MODEL\n", argv[0]);
    return 2;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  server = argv[1];
  char running = start();
  printf("running %s in slot %c\n", boot.version[running - 'a'], running);
  if (getaddrinfo(argv[1], argv[2], &hints, &found) != 0)
    return 1;
  coap_startup();
  context = coap_new_context(NULL);
  coap_context_set_pki_root_cas(context, "ca.pem", NULL);
  coap_register_response_handler(context, answered);
  coap_register_nack_handler(context, lost);
  coap_address_init(&address);
  memcpy(&address.addr, found->ai_addr, found->ai_addrlen);
  address.size = found->ai_addrlen;
  freeaddrinfo(found);
  pki.client_sni = argv[1];
  pki.pki_key.key_type = COAP_PKI_KEY_PEM;
  pki.pki_key.key.pem.public_cert = "device.pem";
  pki.pki_key.key.pem.private_key = "device.key";
  session = coap_new_client_session_pki(context, NULL, &address, COAP_PROTO_DTLS, &pki);
  if (session == NULL)
    return 1;
  ask(COAP_REQUEST_CODE_POST, "d/s", 0, "{\"state\": \"online\"}");
  settle(running);
  update(argv[3], argv[4]);
  coap_session_release(session);
  coap_free_context(context);
  coap_cleanup();
  return 0;
}
