//! Against the files of a real model in both formats, where they are: `LATHE_ORACLES` names a folder with `smollm2/`
//! (Hugging Face) and `smollm2.gguf` (the same model, Q4_1).

use super::*;

fn oracles() -> Option<(ModelFiles, ModelFiles)> {
    let folder = PathBuf::from(std::env::var_os("LATHE_ORACLES")?);
    Some((ModelFiles::open(folder.join("smollm2")).unwrap(), ModelFiles::open(folder.join("smollm2.gguf")).unwrap()))
}

#[test]
fn both_formats_of_smollm2_agree() {
    let Some((folder, gguf)) = oracles() else { return };
    assert!(folder.names().eq(gguf.names()));
    assert_eq!((folder.dtype(), gguf.dtype()), ("bf16", "Q4_1"));
    assert_eq!(folder.parameters(), 134_515_008);
    for (key, value) in gguf.config().as_object().unwrap() {
        assert_eq!(&folder.config()[key], value, "{key}");
    }
    for name in [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.3.self_attn.k_proj.weight",
        "model.layers.7.self_attn.v_proj.weight",
        "model.layers.29.mlp.down_proj.weight",
    ] {
        let read = |files: &ModelFiles| files.tensor(name, DType::F32, &Device::Cpu).unwrap().flatten_all().unwrap();
        let (a, b) = (read(&folder), read(&gguf));
        let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let off = norm(&(&a - &b).unwrap()) / norm(&a);
        assert!(off < 0.15, "{name} is off by {off}");
    }
}

#[test]
fn both_tokenizers_of_smollm2_give_the_same_ids() {
    let Some((folder, gguf)) = oracles() else { return };
    let (a, b) = (folder.tokenizer().unwrap(), gguf.tokenizer().unwrap());
    assert_eq!((&a.bos, &a.eos, &a.pad, &a.unk, a.add_bos), (&b.bos, &b.eos, &b.pad, &b.unk, b.add_bos));
    assert_eq!(a.chat_template, b.chat_template);
    assert_eq!(folder.generation_eos(), gguf.generation_eos());
    for text in [
        "Hello, world! It's 12345.67% off, isn't it?",
        "你好，世界！请用三句话介绍一下你自己。１２３ ½ Ⅻ",
        "fn main() {\n\tlet x: Vec<u8> = vec![0x1f; 1_000];\r\n    println!(\"{x:?}\");\n}\n",
        "👩‍👩‍👧‍👦 🎉🇨🇳 naïve café e\u{301} \u{200b}zero",
        "   leading,  double   and trailing   \n\n\n \t \n",
        "<|im_start|>user\nhi<|im_end|>\n<|endoftext|> <|im_start|> x",
        "",
        " ",
        "ПриветМир العربية עברית 日本語テキスト 한국어",
        "I'LL DON'T we've you'RE 'tis",
        "\u{a0}\u{3000}x\u{2028}y\u{85}z\0",
    ] {
        for special in [false, true] {
            let ids = |t: &ModelTokenizer| t.tokenizer.encode(text, special).unwrap().get_ids().to_vec();
            assert_eq!(ids(&a), ids(&b), "{text:?}");
            let text_of = |t: &ModelTokenizer| t.tokenizer.decode(&ids(t), false).unwrap();
            assert_eq!(text_of(&a), text_of(&b));
        }
    }
}
