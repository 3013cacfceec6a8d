# The heads of all records after the one numbered `last`, for as long as somebody reads them.
BEGIN {
  crc_table()
  for (number = last + 1; ; number++) print head(number)
}
