# A record of the log: one sector of text, "tiny-log NUMBER CRC32 FILLER" and a line feed. The CRC-32 (that
# of zlib) is over "tiny-log NUMBER"; the filler follows from the number, so that each byte is known.
function crc_table(  n, bit, value) {
  for (n = 0; n < 256; n++) {
    value = n
    for (bit = 0; bit < 8; bit++)
      value = (value % 2) ? xor(3988292384, rshift(value, 1)) : rshift(value, 1)
    crc_of[n] = value
    code_of[sprintf("%c", n)] = n
  }
}

function crc32(text,  i, value) {
  value = 4294967295
  for (i = 1; i <= length(text); i++)
    value = xor(crc_of[xor(value % 256, code_of[substr(text, i, 1)])], rshift(value, 8))
  return xor(value, 4294967295)
}

function head(number,  start, checksum) {
  start = "tiny-log " number
  checksum = crc32(start)
  return sprintf("%s %04x%04x ", start, int(checksum / 65536), checksum % 65536) # %x knows 31 bits only
}

function record(number, size,  start, filler) {
  start = head(number)
  filler = number "."
  while (length(filler) < size) filler = filler filler
  return start substr(filler, 1, size - 1 - length(start))
}
