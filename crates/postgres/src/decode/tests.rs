//! Rows in both formats, side by side: whatever goes in, the columns are the same.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, TimestampMicrosecondType};
use arrow::util::display::array_value_to_string;
use lakeward_core::{Batch, ColumnType, ErrorKind, OnBadValue, Result};

use super::{CopyFormat, PgType, RowDecoder, WireColumn};

fn column(name: &str, pg_type: PgType, target: ColumnType, on_bad_value: OnBadValue) -> WireColumn {
    WireColumn::new(name, pg_type, target, on_bad_value)
}

fn decode(format: CopyFormat, columns: &[WireColumn], data: &[u8]) -> Result<Option<Batch>> {
    let mut decoder = RowDecoder::new(format, columns)?;
    decoder.push(data)?;
    decoder.finish()
}

/// A binary COPY of rows of fields.
fn binary(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<u8> {
    let mut out = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for row in rows {
        out.extend_from_slice(&(row.len() as i16).to_be_bytes());
        for field in row {
            out.extend_from_slice(&field.as_ref().map_or(-1, |field| field.len() as i32).to_be_bytes());
            out.extend_from_slice(field.as_deref().unwrap_or_default());
        }
    }
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out
}

/// A text COPY of one row.
fn text(fields: &[Option<&str>]) -> Vec<u8> {
    let fields: Vec<String> = fields
        .iter()
        .map(|field| match field {
            None => "\\N".to_owned(),
            Some(text) => {
                text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
            }
        })
        .collect();
    format!("{}\n", fields.join("\t")).into_bytes()
}

fn array(dimensions: &[(i32, i32)], elements: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut out = (dimensions.len() as i32).to_be_bytes().to_vec();
    out.extend_from_slice(&[0; 8]);
    for (size, lower) in dimensions {
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&lower.to_be_bytes());
    }
    for element in elements {
        out.extend_from_slice(&element.as_ref().map_or(-1, |element| element.len() as i32).to_be_bytes());
        out.extend_from_slice(element.as_deref().unwrap_or_default());
    }
    out
}

fn list(pg_type: PgType) -> PgType {
    PgType::Array(Box::new(pg_type))
}

fn list_of(target: ColumnType) -> ColumnType {
    ColumnType::List(Box::new(target))
}

/// A value as the test expects it in the column; `None` is null.
type Shown = Option<&'static str>;

/// Type, target, the server's text, its binary form, and what the column shows.
type Case = (PgType, ColumnType, &'static str, Vec<u8>, Shown);

fn be32(value: i32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn be64(value: i64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

fn numeric(weight: i16, sign: u16, scale: u16, digits: &[u16]) -> Vec<u8> {
    let header = [digits.len() as u16, weight as u16, sign, scale];
    header.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
}

fn decimal(precision: u8, scale: u8) -> ColumnType {
    ColumnType::Decimal { precision, scale }
}

fn good_values() -> Vec<Case> {
    use ColumnType as C;
    use PgType as P;
    let second = 1_000_000i64;
    vec![
        (P::Bool, C::Boolean, "t", vec![1], Some("true")),
        (P::Bool, C::Text, "f", vec![0], Some("f")),
        (P::Int2, C::Int16, "-32768", i16::MIN.to_be_bytes().to_vec(), Some("-32768")),
        (P::Int2, C::Int64, "32767", i16::MAX.to_be_bytes().to_vec(), Some("32767")),
        (P::Int4, C::Int32, "-2147483648", be32(i32::MIN), Some("-2147483648")),
        (P::Int4, C::Float64, "2147483647", be32(i32::MAX), Some("2147483647.0")),
        (P::Int4, decimal(38, 2), "12", be32(12), Some("12.00")),
        (P::Int8, C::Int64, "-9223372036854775808", be64(i64::MIN), Some("-9223372036854775808")),
        (P::Int8, C::Int64, "9223372036854775807", be64(i64::MAX), Some("9223372036854775807")),
        (P::Oid, C::UInt32, "4294967295", u32::MAX.to_be_bytes().to_vec(), Some("4294967295")),
        (P::Oid, C::Int64, "4294967295", u32::MAX.to_be_bytes().to_vec(), Some("4294967295")),
        (P::Float4, C::Float32, "1e-45", f32::from_bits(1).to_be_bytes().to_vec(), Some("1e-45")),
        (P::Float8, C::Float64, "5e-324", f64::from_bits(1).to_be_bytes().to_vec(), Some("5e-324")),
        (P::Float8, C::Float64, "-Infinity", f64::NEG_INFINITY.to_be_bytes().to_vec(), Some("-inf")),
        (P::Float8, C::Float64, "NaN", f64::NAN.to_be_bytes().to_vec(), Some("NaN")),
        (P::Float8, C::Text, "1e+20", 1e20f64.to_be_bytes().to_vec(), Some("1e+20")),
        (
            P::Numeric,
            C::Text,
            "-1234567.8900",
            numeric(1, 0x4000, 4, &[123, 4567, 8900]),
            Some("-1234567.8900"),
        ),
        (P::Numeric, C::Text, "NaN", numeric(0, 0xc000, 0, &[]), Some("NaN")),
        (P::Numeric, decimal(10, 2), "-0.50", numeric(-1, 0x4000, 2, &[5000]), Some("-0.50")),
        (P::Numeric, decimal(76, 1), "100000000", numeric(2, 0, 0, &[1]), Some("100000000.0")),
        (P::Numeric, C::Float64, "0.1", numeric(-1, 0, 1, &[1000]), Some("0.1")),
        (P::Numeric, C::Int64, "12.0", numeric(0, 0, 1, &[12]), Some("12")),
        (P::Date, C::Date, "0001-01-01", be32(-730_119), Some("0001-01-01")),
        (P::Date, C::Date, "9999-12-31", be32(2_921_939), Some("9999-12-31")),
        (P::Time, C::Time, "23:59:59.999999", be64(86_400 * second - 1), Some("23:59:59.999999")),
        (
            P::Timestamp,
            C::Timestamp,
            "2000-01-01 00:00:00.5",
            be64(second / 2),
            Some("2000-01-01T00:00:00.500"),
        ),
        (
            P::Timestamptz,
            C::TimestampTz,
            "1999-12-31 23:59:59+00",
            be64(-second),
            Some("1999-12-31T23:59:59"),
        ),
        (
            P::Uuid,
            C::Uuid,
            "00112233-4455-6677-8899-aabbccddeeff",
            (0..16).map(|at| at * 0x11).collect(),
            Some("00112233445566778899aabbccddeeff"),
        ),
        (
            P::Uuid,
            C::Text,
            "00112233-4455-6677-8899-aabbccddeeff",
            (0..16).map(|at| at * 0x11).collect(),
            Some("00112233-4455-6677-8899-aabbccddeeff"),
        ),
        (P::Bytea, C::Binary, "\\x00ff0a", vec![0, 255, 10], Some("00ff0a")),
        (P::Bytea, C::Binary, "\\x", vec![], Some("")),
        (P::Bytea, C::Text, "\\x00ff", vec![0, 255], Some("\\x00ff")),
        (P::Json, C::Json, "{\"a\":\t1}", b"{\"a\":\t1}".to_vec(), Some("{\"a\":\t1}")),
        (P::Jsonb, C::Json, "{\"a\": \"\\n\"}", b"\x01{\"a\": \"\\n\"}".to_vec(), Some("{\"a\": \"\\n\"}")),
        (
            P::Text,
            C::Text,
            "a\tb\nc\\d\re\u{8}é😀",
            "a\tb\nc\\d\re\u{8}é😀".into(),
            Some("a\tb\nc\\d\re\u{8}é😀"),
        ),
        (P::Text, C::Text, "\\N", b"\\N".to_vec(), Some("\\N")),
        (P::Text, C::Text, "", vec![], Some("")),
        (list(P::Int4), list_of(C::Int32), "{}", array(&[], &[]), Some("[]")),
        (
            list(P::Int4),
            list_of(C::Int32),
            "{1,NULL,-3}",
            array(&[(3, 1)], &[Some(be32(1)), None, Some(be32(-3))]),
            Some("[1, , -3]"),
        ),
        (
            list(P::Text),
            list_of(C::Text),
            r#"{"a,b","q\"\\","NULL",NULL,"",x}"#,
            array(
                &[(6, 1)],
                &[
                    Some(b"a,b".to_vec()),
                    Some(b"q\"\\".to_vec()),
                    Some(b"NULL".to_vec()),
                    None,
                    Some(vec![]),
                    Some(b"x".to_vec()),
                ],
            ),
            Some(r#"[a,b, q"\, NULL, , , x]"#),
        ),
        (
            list(P::Text),
            C::Text,
            r#"[0:1]={"a b",NULL}"#,
            array(&[(2, 0)], &[Some(b"a b".to_vec()), None]),
            Some(r#"[0:1]={"a b",NULL}"#),
        ),
    ]
}

/// Bad values: what clamping shows, and the text that is rescued is the server's.
fn bad_values() -> Vec<Case> {
    use ColumnType as C;
    use PgType as P;
    let last = Some("9999-12-31T23:59:59.999999");
    vec![
        (P::Date, C::Date, "infinity", be32(i32::MAX), Some("9999-12-31")),
        (P::Date, C::Date, "-infinity", be32(i32::MIN), Some("0001-01-01")),
        (P::Date, C::Date, "10000-01-01", be32(2_921_940), Some("9999-12-31")),
        (P::Date, C::Date, "0001-12-31 BC", be32(-730_120), Some("0001-01-01")),
        (P::Date, C::Date, "4713-01-01 BC", be32(-2_451_507), Some("0001-01-01")),
        (P::Time, C::Time, "24:00:00", be64(86_400_000_000), Some("23:59:59.999999")),
        (P::Timestamp, C::Timestamp, "infinity", be64(i64::MAX), last),
        (P::Timestamp, C::Timestamp, "-infinity", be64(i64::MIN), Some("0001-01-01T00:00:00")),
        (P::Timestamptz, C::TimestampTz, "infinity", be64(i64::MAX), last),
        (P::Timestamptz, C::TimestampTz, "10000-01-01 00:00:00+00", be64(2_921_940 * 86_400_000_000), last),
        (
            P::Timestamptz,
            C::TimestampTz,
            "0001-12-31 23:59:59.9+00 BC",
            be64(-730_119 * 86_400_000_000 - 100_000),
            Some("0001-01-01T00:00:00"),
        ),
        (P::Numeric, decimal(5, 2), "NaN", numeric(0, 0xc000, 0, &[]), None),
        (P::Numeric, decimal(5, 2), "-Infinity", numeric(0, 0xf000, 0, &[]), None),
        (P::Numeric, decimal(5, 2), "1.234", numeric(0, 0, 3, &[1, 2340]), None),
        (P::Numeric, decimal(5, 2), "1000", numeric(0, 0, 0, &[1000]), None),
        (P::Numeric, decimal(50, 2), "1.234", numeric(0, 0, 3, &[1, 2340]), None),
        (P::Numeric, C::Int64, "1.5", numeric(0, 0, 1, &[1, 5000]), None),
        (P::Numeric, C::Int64, "9223372036854775808", numeric(4, 0, 0, &[922, 3372, 368, 5477, 5808]), None),
        (P::Int4, decimal(3, 1), "100", be32(100), None),
        (
            list(P::Date),
            list_of(C::Date),
            "{infinity,NULL,2000-01-01}",
            array(&[(3, 1)], &[Some(be32(i32::MAX)), None, Some(be32(0))]),
            Some("[9999-12-31, , 2000-01-01]"),
        ),
        (
            list(P::Timestamp),
            list_of(C::Timestamp),
            "{\"2000-01-01 00:00:00\",-infinity}",
            array(&[(2, 1)], &[Some(be64(0)), Some(be64(i64::MIN))]),
            Some("[2000-01-01T00:00:00, 0001-01-01T00:00:00]"),
        ),
        (
            list(P::Float8),
            list_of(C::Float64),
            "{{1.5,NULL},{1e+20,NaN}}",
            array(
                &[(2, 1), (2, 1)],
                &[
                    Some(1.5f64.to_be_bytes().to_vec()),
                    None,
                    Some(1e20f64.to_be_bytes().to_vec()),
                    Some(f64::NAN.to_be_bytes().to_vec()),
                ],
            ),
            None,
        ),
        (
            list(P::Int4),
            list_of(C::Int32),
            "[-1:0]={7,8}",
            array(&[(2, -1)], &[Some(be32(7)), Some(be32(8))]),
            None,
        ),
    ]
}

fn shown(batch: &Batch, column: usize, row: usize) -> Option<String> {
    let mut array = batch.rows.column(column).clone();
    if array.data_type() == &ColumnType::TimestampTz.arrow() {
        // Arrow prints no named zone without the time zone database.
        let instants = array.as_primitive::<TimestampMicrosecondType>().clone();
        array = Arc::new(instants.with_timezone_opt(None::<&str>));
    }
    let array = &array;
    array.is_valid(row).then(|| array_value_to_string(array, row).unwrap())
}

#[test]
fn good_values_are_the_same_from_both_formats() {
    for (pg_type, target, server_text, bytes, expected) in good_values() {
        let columns = [column("c", pg_type, target, OnBadValue::Fail)];
        let text = decode(CopyFormat::Text, &columns, &text(&[Some(server_text)])).unwrap().unwrap();
        let binary = decode(CopyFormat::Binary, &columns, &binary(&[vec![Some(bytes)]])).unwrap().unwrap();
        assert_eq!(shown(&text, 0, 0).as_deref(), expected, "text of {:?}", columns[0]);
        assert_eq!(text.rows, binary.rows, "{:?}", columns[0]);
        assert!(text.rescued.is_none() && binary.rescued.is_none());
    }
}

#[test]
fn bad_values_follow_the_policy_and_are_rescued_in_the_servers_text() {
    for (pg_type, target, server_text, bytes, clamped) in bad_values() {
        for policy in [OnBadValue::Clamp, OnBadValue::Null, OnBadValue::Fail] {
            let columns = [column("c\"1", pg_type.clone(), target.clone(), policy)];
            let both = [
                decode(CopyFormat::Text, &columns, &text(&[Some(server_text)])),
                decode(CopyFormat::Binary, &columns, &binary(&[vec![Some(bytes.clone())]])),
            ];
            let mut batches = Vec::new();
            for result in both {
                if policy == OnBadValue::Fail {
                    let error = result.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Data);
                    assert!(error.places().any(|place| place == ("column", "c\"1")));
                    assert!(!format!("{error:?}{:?}", error.remedy()).contains(server_text));
                    continue;
                }
                let batch = result.unwrap().unwrap();
                assert_eq!(batch.bad_values.iter().collect::<Vec<_>>(), [(0, 1)], "{server_text}");
                let rescued = batch.rescued.as_ref().unwrap().value(0);
                let object: serde_json::Value = serde_json::from_str(rescued).unwrap();
                assert_eq!(object, serde_json::json!({ "c\"1": server_text }));
                if policy == OnBadValue::Clamp {
                    assert_eq!(shown(&batch, 0, 0).as_deref(), clamped, "{server_text}");
                } else if !matches!(target, ColumnType::List(_)) {
                    assert!(batch.rows.column(0).is_null(0));
                }
                batches.push(batch.rows);
            }
            assert!(batches.windows(2).all(|pair| pair[0] == pair[1]), "{server_text}");
        }
    }
}

#[test]
fn under_null_a_bad_element_is_null_and_its_neighbours_stay() {
    let columns = [column("c", list(PgType::Date), list_of(ColumnType::Date), OnBadValue::Null)];
    let batch = decode(CopyFormat::Text, &columns, b"{infinity,2000-01-01}\n").unwrap().unwrap();
    assert_eq!(shown(&batch, 0, 0).as_deref(), Some("[, 2000-01-01]"));
}

/// All cases as one table, once with values and once with nulls.
fn table() -> (Vec<WireColumn>, Vec<u8>, Vec<u8>) {
    let cases: Vec<Case> = good_values().into_iter().chain(bad_values()).collect();
    let columns: Vec<_> = cases
        .iter()
        .enumerate()
        .map(|(at, case)| column(&format!("c{at}"), case.0.clone(), case.1.clone(), OnBadValue::Clamp))
        .collect();
    let texts: Vec<_> = cases.iter().map(|case| Some(case.2)).collect();
    let bytes: Vec<_> = cases.iter().map(|case| Some(case.3.clone())).collect();
    let nulls = vec![None; cases.len()];
    let row = text(&texts);
    let text = [&row[..], &text(&nulls), &row].concat();
    let binary = binary(&[bytes.clone(), vec![None; cases.len()], bytes]);
    (columns, text, binary)
}

#[test]
fn a_stream_that_is_cut_anywhere_is_the_same_rows() {
    let (columns, text, binary) = table();
    for (format, data) in [(CopyFormat::Text, text), (CopyFormat::Binary, binary)] {
        let whole = decode(format, &columns, &data).unwrap().unwrap();
        assert_eq!(whole.rows.num_rows(), 3);
        for cut in 0..=data.len() {
            let mut decoder = RowDecoder::new(format, &columns).unwrap();
            decoder.push(&data[..cut]).unwrap();
            decoder.push(&data[cut..]).unwrap();
            let batch = decoder.finish().unwrap().unwrap();
            assert_eq!(batch.rows, whole.rows, "{format:?} cut at {cut}");
            assert_eq!(batch.rescued, whole.rescued);
            assert_eq!(batch.bad_values, whole.bad_values);
        }
        let mut decoder = RowDecoder::new(format, &columns).unwrap();
        data.iter().for_each(|byte| decoder.push(&[*byte]).unwrap());
        assert_eq!(decoder.finish().unwrap().unwrap().rows, whole.rows);
    }
}

#[test]
fn a_stream_that_is_cut_short_is_an_error() {
    let (columns, text, binary) = table();
    let row_ends: Vec<usize> =
        text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    for cut in 1..text.len() {
        let result = decode(CopyFormat::Text, &columns, &text[..cut]);
        if row_ends.contains(&cut) {
            assert!(result.is_ok());
        } else {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Connection, "cut at {cut}");
        }
    }
    for cut in 0..binary.len() {
        assert_eq!(
            decode(CopyFormat::Binary, &columns, &binary[..cut]).unwrap_err().kind(),
            ErrorKind::Connection
        );
    }
}

#[test]
fn builders_are_reusable_and_sizes_add_up() {
    let columns = [
        column("a", PgType::Int4, ColumnType::Int32, OnBadValue::Clamp),
        column("b", PgType::Text, ColumnType::Text, OnBadValue::Clamp),
    ];
    let mut decoder = RowDecoder::new(CopyFormat::Text, &columns).unwrap();
    for batch in 0..3 {
        for row in 0..100 {
            decoder.push(format!("{}\tx{row}\n", batch * 100 + row).as_bytes()).unwrap();
        }
        assert_eq!(decoder.rows(), 100);
        assert_eq!(decoder.bytes(), 100 * (4 + 4) + 290);
        let batch = decoder.finish_batch().unwrap();
        assert_eq!(batch.rows.column(0).as_primitive::<Int32Type>().null_count(), 0);
        assert_eq!(shown(&batch, 1, 99).as_deref(), Some("x99"));
        assert_eq!((decoder.rows(), decoder.bytes()), (0, 0));
    }
    assert!(decoder.finish().unwrap().is_none());
}

#[test]
fn a_table_without_columns_has_rows() {
    let text = decode(CopyFormat::Text, &[], b"\n\n\n").unwrap().unwrap();
    assert_eq!((text.rows.num_rows(), text.rows.num_columns()), (3, 0));
    let binary = decode(CopyFormat::Binary, &[], &binary(&[vec![], vec![]])).unwrap().unwrap();
    assert_eq!(binary.rows.num_rows(), 2);
    assert_eq!(decode(CopyFormat::Text, &[], b"x\n").unwrap_err().kind(), ErrorKind::Source);
}

#[test]
fn rows_of_other_columns_are_refused() {
    let columns = [
        column("a", PgType::Int4, ColumnType::Int32, OnBadValue::Clamp),
        column("b", PgType::Text, ColumnType::Text, OnBadValue::Clamp),
    ];
    for row in [&b"1\n"[..], b"1\tx\ty\n", b"1\tx\\\n", b"\n"] {
        assert!(decode(CopyFormat::Text, &columns, row).is_err());
    }
    for row in [vec![], vec![Some(be32(1))], vec![Some(vec![1]), None], vec![None, None, None]] {
        assert!(decode(CopyFormat::Binary, &columns, &binary(&[row])).is_err());
    }
    let mut after_trailer = binary(&[]);
    after_trailer.push(0);
    assert!(decode(CopyFormat::Binary, &columns, &after_trailer).is_err());
}

#[test]
fn text_that_is_not_utf8_names_its_column() {
    for target in [ColumnType::Text, list_of(ColumnType::Text)] {
        let pg_type = if target == ColumnType::Text { PgType::Text } else { list(PgType::Text) };
        let columns = [
            column("fine", PgType::Text, ColumnType::Text, OnBadValue::Clamp),
            column("broken", pg_type, target, OnBadValue::Clamp),
        ];
        // The bytes of both rows together are UTF-8; each alone is not.
        let error = decode(CopyFormat::Text, &columns, b"a\t{\xc3}\na\t{\xa9}\n").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        assert!(error.places().any(|place| place == ("column", "broken")));
    }
}

#[test]
fn a_huge_value_is_decoded_whole() {
    let columns = [
        column("a", PgType::Text, ColumnType::Text, OnBadValue::Clamp),
        column("b", PgType::Bytea, ColumnType::Binary, OnBadValue::Clamp),
    ];
    let size = 100 << 20;
    let mut row = vec![b'x'; size];
    row[size / 2..size / 2 + 2].copy_from_slice(b"\\n");
    row.extend_from_slice(b"\t\\\\x");
    row.resize(row.len() + 2 * size, b'0');
    row.push(b'\n');
    let batch = decode(CopyFormat::Text, &columns, &row).unwrap().unwrap();
    assert_eq!(batch.rows.column(0).as_string::<i32>().value(0).len(), size - 1);
    assert_eq!(batch.rows.column(1).as_binary::<i32>().value(0).len(), size);
    // No more than what the values need, but for what doubling left of the first, smaller part.
    assert!(batch.rows.get_array_memory_size() < 2 * size + (size >> 2));
}

#[test]
fn random_bytes_never_panic() {
    let (columns, text, binary) = table();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..6_000 {
        let (format, seed) =
            if round % 2 == 0 { (CopyFormat::Text, &text) } else { (CopyFormat::Binary, &binary) };
        let mut data = seed.clone();
        for _ in 0..1 + random() % 4 {
            let at = random() as usize % data.len();
            match random() % 4 {
                0 => data[at] = random() as u8,
                1 => data[at] ^= 1 << (random() % 8),
                2 => drop(data.remove(at)),
                _ => data.insert(at, b"\\\t\n\0{},\"N:-."[random() as usize % 12]),
            }
        }
        let _ = decode(format, &columns, &data);
    }
    // Each column alone, on bytes that mean nothing.
    for column in &columns {
        for round in 0..300 {
            let bytes: Vec<u8> = (0..random() % 40)
                .map(|_| random() as u8 & if round % 2 == 0 { 0xff } else { 0x0f })
                .collect();
            let columns = std::slice::from_ref(column);
            let _ = decode(CopyFormat::Binary, columns, &self::binary(&[vec![Some(bytes.clone())]]));
            let _ = decode(CopyFormat::Text, columns, &[&bytes[..], b"\n"].concat());
        }
    }
}

#[test]
fn impossible_combinations_are_refused() {
    use ColumnType as C;
    let refuse = |format, pg_type, target| {
        RowDecoder::new(format, &[column("c", pg_type, target, OnBadValue::Clamp)]).unwrap_err().kind()
    };
    assert_eq!(refuse(CopyFormat::Text, PgType::Text, C::Int32), ErrorKind::Schema);
    assert_eq!(refuse(CopyFormat::Binary, PgType::TextOnly, C::Text), ErrorKind::Bug);
    assert!(!RowDecoder::binary_decodable(&list(PgType::TextOnly), &C::Text));
    assert!(RowDecoder::supports(&list(PgType::TextOnly), &list_of(C::Text)));
    assert!(!RowDecoder::supports(&PgType::Int8, &C::Int32));
    assert!(!RowDecoder::supports(&PgType::Timestamptz, &C::Timestamp));
    // What is supported can be built.
    let scalars = [
        PgType::Bool,
        PgType::Int2,
        PgType::Int4,
        PgType::Int8,
        PgType::Oid,
        PgType::Float4,
        PgType::Float8,
        PgType::Numeric,
        PgType::Date,
        PgType::Time,
        PgType::Timestamp,
        PgType::Timestamptz,
        PgType::Uuid,
        PgType::Bytea,
        PgType::Json,
        PgType::Jsonb,
        PgType::Text,
        PgType::TextOnly,
    ];
    let targets = [
        C::Boolean,
        C::Int8,
        C::Int16,
        C::Int32,
        C::Int64,
        C::UInt8,
        C::UInt16,
        C::UInt32,
        C::UInt64,
        C::Float32,
        C::Float64,
        decimal(38, 38),
        decimal(76, 0),
        C::Text,
        C::Json,
        C::Uuid,
        C::Binary,
        C::Date,
        C::Time,
        C::Timestamp,
        C::TimestampTz,
    ];
    for pg_type in &scalars {
        for target in &targets {
            let columns = [
                column("c", pg_type.clone(), target.clone(), OnBadValue::Clamp),
                column("l", list(pg_type.clone()), list_of(target.clone()), OnBadValue::Clamp),
            ];
            assert_eq!(
                RowDecoder::supports(pg_type, target),
                RowDecoder::new(CopyFormat::Text, &columns).is_ok(),
                "{pg_type:?} {target:?}",
            );
        }
    }
}

#[test]
fn a_list_of_timestamps_keeps_its_zone() {
    let columns =
        [column("c", list(PgType::Timestamptz), list_of(ColumnType::TimestampTz), OnBadValue::Clamp)];
    let batch = decode(CopyFormat::Text, &columns, b"{\"1970-01-01 00:00:01+00\"}\n").unwrap().unwrap();
    let elements = batch.rows.column(0).as_list::<i32>().value(0);
    assert_eq!(elements.as_primitive::<TimestampMicrosecondType>().value(0), 1_000_000);
    assert_eq!(elements.data_type(), &ColumnType::TimestampTz.arrow());
}
