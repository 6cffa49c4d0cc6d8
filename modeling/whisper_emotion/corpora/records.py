"""One record per corpus, used by the loader, messages, cards, folds and the table in the guide on corpora.

A corpus whose file names contain speaker and emotion needs only a record here. Published folds are from EmoBox (arXiv
2406.07162) and arXiv 2602.06000.
"""

from __future__ import annotations

import re

from whisper_emotion.corpora.record import GENDERS, Corpus


def _codes(codes: str, *words: str) -> dict[str, str]:
    """Map space-separated codes to words."""
    return dict(zip(codes.split(), words, strict=True))


def _words(words: str) -> dict[str, str]:
    """Map space-separated words to themselves."""
    return {word: word for word in words.split()}


def _shemo_folds() -> dict[str, list[str]]:
    """Ten groups of consecutive women and men, as in the released code of arXiv 2602.06000."""
    women, men = (0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 31), (0, 6, 12, 18, 24, 30, 36, 41, 46, 51, 56)
    speakers = [
        [f"F{number:02d}" for number in range(women[fold] + 1, women[fold + 1] + 1)]
        + [f"M{number:02d}" for number in range(men[fold] + 1, men[fold + 1] + 1)]
        for fold in range(10)
    ]
    return {f"{group[0]} to {group[-1]}": group for group in speakers}


RAVDESS_WORDS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")

CORPORA = {
    "emodb": Corpus(
        title="EMO-DB",
        layout="wav/03a01Wa.wav",
        language="de",
        license="cc0-1.0",
        address="http://emodb.bilderbar.info/docu/",
        about="Burkhardt et al., Interspeech 2005: 535 German utterances of ten sentences, seven emotions acted by "
        "ten actors in an anechoic chamber, kept where listeners recognised them. Its current host distributes "
        "it as **CC0 1.0**: any use is allowed. Its owners ask to be cited.",
        published=535,
        pattern=r"(?P<speaker>03|08|09|1[0-6])[a-z]\d\d(?P<emotion>[WLEAFNT])[a-z]",
        # Wut, Langeweile, Ekel, Angst, Freude, neutral, Trauer
        emotions=_codes("W L E A F N T", "anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness"),
        genders={
            f"{number:02d}": "female" if number in (8, 9, 13, 14, 16) else "male" for number in (3, *range(8, 17))
        },
        folds=("emobox",),
    ),
    "ravdess": Corpus(
        title="RAVDESS",
        layout="Actor_01/03-01-05-01-01-01-01.wav",
        language="en",
        license="cc-by-nc-sa-4.0",
        address="https://zenodo.org/record/1188976",
        about="Livingstone and Russo, PLoS ONE 2018: 1,440 English utterances of two sentences, eight emotions "
        "acted by 24 North American actors. Licence **CC BY-NC-SA 4.0**: no commercial use, derived works under "
        "the same licence. This model is offered under the same terms.",
        published=1440,
        # Modality (03: audio only), channel (01: speech, 02: song), emotion, intensity, statement, repetition, actor
        pattern=r"(?:03-01|(?P<other>0[1-3]-0[12]))-(?P<emotion>0[1-8])(?:-0[12]){3}-(?P<speaker>0[1-9]|1\d|2[0-4])",
        emotions={f"{number:02d}": word for number, word in enumerate(RAVDESS_WORDS, start=1)},
        genders={f"{actor:02d}": "male" if actor % 2 else "female" for actor in range(1, 25)},
        folds=("emobox",),
    ),
    "iemocap": Corpus(
        title="IEMOCAP",
        layout="Session1/dialog/EmoEvaluation/Ses01F_impro01.txt and Session1/sentences/wav/Ses01F_impro01/*.wav",
        language="en",
        address="https://sail.usc.edu/iemocap/",
        about="Busso et al., Language Resources and Evaluation 2008: about twelve hours of English dialogue, ten "
        "actors in five sessions. Its owners (University of Southern California) provide it for **research** after "
        "a signed release form, which binds anyone who trains on it. Ask the owners before any other use.",
        published=10039,
        emotions=_codes(
            "ang hap exc neu sad fru sur fea dis oth xxx",
            *("anger", "happiness", "excited", "neutral", "sadness", "frustration", "surprise", "fear", "disgust"),
            *("other", ""),  # no two annotators agree
        ),
        folds=("paper", "emobox"),
        paper_folds={f"Ses0{number}": (f"Ses0{number}F", f"Ses0{number}M") for number in range(1, 6)},
        classes=("angry", "happy", "neutral", "sad"),
        merge={"excited": "happy"},
        reader="iemocap",
    ),
    "shemo": Corpus(
        title="ShEMO",
        layout="female/F03S02.wav, male/M32S01.wav",
        language="fa",
        address="https://github.com/pariajm/sharif-emotional-speech-database",
        about="Mohamad Nezami et al., Language Resources and Evaluation 2019: 3,000 Persian utterances of 87 "
        "speakers, cut from radio plays and labelled by twelve annotators. Its owners offer it free of charge "
        "for academic purposes; about 160 labels differ from a later relabelling.",
        published=3000,
        pattern=r"(?P<speaker>F(?:0[1-9]|[12]\d|3[01])|M(?:0[1-9]|[1-4]\d|5[0-6]))(?P<emotion>[AFHNSW])\d+",
        emotions=_codes("A F H N S W", "anger", "fear", "happiness", "neutral", "sadness", "surprise"),
        genders={f"{letter}{number:02d}": GENDERS[letter] for letter in "FM" for number in range(1, 57)},
        folds=("paper", "emobox"),
        paper_folds=_shemo_folds(),
    ),
    "emovo": Corpus(
        title="EMOVO",
        layout="f1/dis-f1-b1.wav",
        language="it",
        address="http://voice.fub.it/activities/corpora/emovo/index.html",
        about="Costantini et al., LREC 2014: 588 Italian utterances of 14 sentences, seven emotions acted by six "
        "actors. For non-commercial use, with acknowledgement.",
        published=588,
        pattern=r"(?P<emotion>dis|gio|neu|pau|rab|sor|tri)-(?P<speaker>(?P<gender>[fm])[1-3])-[a-z]+\d*",
        emotions=_codes(
            "dis gio neu pau rab sor tri", "disgust", "joy", "neutral", "fear", "anger", "surprise", "sadness"
        ),
    ),
    "ased": Corpus(
        title="ASED",
        layout="01Neutral/n1-02-01-02-46.wav",
        language="am",
        address="https://github.com/Ethio2021/ASED_V1",
        about="Retta et al. 2023: 2,474 Amharic utterances, five emotions acted by 65 speakers. Its owners state no "
        "licence and ask to be cited.",
        published=2474,
        # Emotion, sentence, repetition, gender, speaker
        pattern=r"(?P<emotion>[nfhsaNFHSA])\d-\d\d-\d\d-(?P<gender>0[12])-(?P<speaker>\d\d)",
        emotions={
            code: word
            for letter, word in _codes("n f h s a", "neutral", "fearful", "happy", "sad", "angry").items()
            for code in (letter, letter.upper())
        },
        genders={"01": "female", "02": "male"},
    ),
    "tess": Corpus(
        title="TESS",
        layout="OAF_angry/OAF_back_angry.wav",
        language="en",
        license="cc-by-nc-nd-4.0",
        address="https://doi.org/10.5683/SP2/E8H2MF",
        about="Pichora-Fuller and Dupuis 2020: 2,800 English utterances of 200 words in one phrase, seven emotions "
        "acted by two women. Licence **CC BY-NC-ND 4.0**: no commercial use, no derivatives of the "
        "recordings.",
        published=2800,
        pattern=r"(?P<speaker>OAF?|YAF)_\w+_(?P<emotion>angry|disgust|fear|happy|neutral|ps|sad)",
        emotions=_words("angry disgust fear happy neutral sad") | {"ps": "pleasant surprise"},
        genders={"OAF": "female", "YAF": "female"},
        speakers={"OA": "OAF"},  # one file
    ),
    "nemo": Corpus(
        title="nEMO",
        layout="samples/EB0_anger_58.wav",
        language="pl",
        license="cc-by-nc-sa-4.0",
        address="https://huggingface.co/datasets/amu-cai/nEMO",
        about="Christop, LREC-COLING 2024: 4,481 Polish utterances, six emotions acted by nine actors. Licence **CC "
        "BY-NC-SA 4.0**: no commercial use, derived works under the same licence.",
        published=4481,
        pattern=r"(?P<speaker>[A-Z]{2}0)_(?P<emotion>anger|fear|happiness|neutral|sadness|surprised)_\d+",
        emotions=_words("anger fear happiness neutral sadness surprised"),
        genders=dict.fromkeys(("EB0", "IC0", "KD0", "MK0"), "female")
        | dict.fromkeys(("KS0", "MP0", "SM0", "TP0", "WR0"), "male"),
    ),
    "cremad": Corpus(
        title="CREMA-D",
        layout="AudioWAV/1001_DFA_ANG_XX.wav",
        language="en",
        license="odbl",
        address="https://github.com/CheyneyComputerScience/CREMA-D",
        about="Cao et al., IEEE Transactions on Affective Computing 2014: 7,442 English utterances of twelve "
        "sentences, six emotions acted by 91 actors. Open Database License.",
        published=7442,
        pattern=r"(?P<speaker>10\d\d)_[A-Z]{3}_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_(?:LO|MD|HI|XX?)",
        emotions=_codes("ANG DIS FEA HAP NEU SAD", "anger", "disgust", "fear", "happiness", "neutral", "sadness"),
        speaker_table=("VideoDemographics.csv", "ActorID", "Sex"),
    ),
    "savee": Corpus(
        title="SAVEE",
        layout="AudioData/DC/a01.wav",
        language="en",
        address="http://kahlan.eps.surrey.ac.uk/savee/",
        about="Haq and Jackson 2010: 480 English utterances, seven emotions acted by four men. For research only.",
        published=480,
        pattern=r"(?P<speaker>DC|JE|JK|KL)[/_](?P<emotion>a|d|f|h|n|sa|su)\d\d",
        emotions=_codes("a d f h n sa su", "anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
        genders=dict.fromkeys(("DC", "JE", "JK", "KL"), "male"),
    ),
    "cafe": Corpus(
        title="CaFE",
        layout="Colère/Fort/01-C-2-1.wav",
        language="fr",
        license="cc-by-nc-sa-4.0",
        address="https://zenodo.org/record/1478765",
        about="Gournay et al., ACM MMSys 2018: 936 utterances of six sentences in Canadian French, seven emotions "
        "in two intensities acted by twelve actors. Licence **CC BY-NC-SA 4.0**.",
        published=936,
        pattern=r"(?P<speaker>0[1-9]|1[0-2])-(?P<emotion>[CDJNPST])-[12]-\d",
        emotions=_codes("C D J N P S T", "anger", "disgust", "happiness", "neutral", "fear", "surprise", "sadness"),
        genders={f"{actor:02d}": "male" if actor % 2 else "female" for actor in range(1, 13)},
    ),
    "aesdd": Corpus(
        title="AESDD",
        layout="anger/a01 (1).wav",
        language="el",
        address="http://m3c.web.auth.gr/research/aesdd-speech-emotion-recognition/",
        about="Vryzas et al., Journal of the Audio Engineering Society 2018: about 600 Greek utterances, five "
        "emotions acted by actors of the Aristotle University of Thessaloniki. Ask its owners for their "
        "terms.",
        pattern=r"(?P<emotion>[adfhs])\d+ ?\((?P<speaker>\d+)\)",
        emotions=_codes("a d f h s", "anger", "disgust", "fear", "happiness", "sadness"),
    ),
    "mesd": Corpus(
        title="MESD",
        layout="Anger_C_A_abajo.wav",
        language="es",
        license="cc-by-4.0",
        address="https://data.mendeley.com/datasets/cy34mh68j9",
        about="Duville et al. 2021: 864 single words in Mexican Spanish, six emotions, voices of children, women "
        "and men. Its speakers are not named: each kind of voice counts as one speaker. Licence CC BY 4.0.",
        published=864,
        pattern=r"(?P<emotion>Anger|Disgust|Fear|Happiness|Neutral|Sadness)_(?P<speaker>(?P<gender>[CFM]))_[AB]_[^/]+",
        emotions=_words("Anger Disgust Fear Happiness Neutral Sadness"),
    ),
    "subesco": Corpus(
        title="SUBESCO",
        layout="F_01_OISHI_S_1_ANGRY_1.wav",
        language="bn",
        license="cc-by-4.0",
        address="https://zenodo.org/record/4526477",
        about="Sultana et al., PLoS ONE 2021: 7,000 Bangla utterances of ten sentences, seven emotions acted by "
        "twenty speakers. Licence CC BY 4.0.",
        published=7000,
        pattern=r"(?P<speaker>(?P<gender>[FM])_\d\d)_[A-Z]+_S_\d+_"
        r"(?P<emotion>ANGRY|DISGUST|FEAR|HAPPY|NEUTRAL|SAD|SURPRISE)_\d+",
        emotions=_words("ANGRY DISGUST FEAR HAPPY NEUTRAL SAD SURPRISE"),
    ),
    "esd": Corpus(
        title="ESD",
        layout="0001/Angry/0001_000351.wav",
        language="en,zh",
        address="https://github.com/HLTSingapore/Emotional-Speech-Data",
        about="Zhou et al., Speech Communication 2022: 35,000 English and Mandarin utterances, five emotions of "
        "twenty speakers. For research only.",
        published=35000,
        pattern=r"(?P<emotion>Neutral|Happy|Angry|Sad|Surprise)/(?:(?:train|test|evaluation)/)?"
        r"(?P<speaker>00(?:0[1-9]|1\d|20))_\d+",
        emotions=_words("Neutral Happy Angry Sad Surprise"),
    ),
    "jl_corpus": Corpus(
        title="JL-Corpus",
        layout="female1_angry_10a_1.wav",
        language="en",
        license="cc0-1.0",
        address="https://github.com/tli725/JL-Corpus",
        about="James et al., Interspeech 2018: 2,400 utterances in New Zealand English, five primary and five "
        "secondary emotions acted by four speakers.",
        published=2400,
        pattern=r"(?P<speaker>(?P<gender>female|male)[12])_(?P<emotion>[a-z]+)_\d+[ab]_[12]",
        emotions=_words("angry sad neutral happy excited anxious apologetic assertive concerned encouraging"),
        other=("anxious", "apologetic", "assertive", "concerned", "encouraging"),
    ),
    "turev": Corpus(
        title="TurEV-DB",
        layout="Angry/1157_kz_acik.wav",
        language="tr",
        license="cc-by-nc-nd-4.0",
        address="https://github.com/Xeonen/TurEV-DB",
        about="Canpolat et al., SLTU-CCURL 2020: 1,735 single Turkish words, four emotions of six speakers. Licence "
        "**CC BY-NC-ND 4.0**: no commercial use, no derivatives of the recordings.",
        published=1735,
        pattern=r"(?P<speaker>\d+)_(?P<emotion>kz|sk|mt|hl)_[^/]+",
        emotions=_codes("kz sk mt hl", "angry", "calm", "happy", "sad"),
    ),
    "msp_podcast": Corpus(
        title="MSP-Podcast",
        layout="Labels/labels_consensus.csv and Audios/MSP-PODCAST_0001_0008.wav",
        language="en",
        address="https://lab-msp.com/MSP/MSP-Podcast.html",
        about="Lotfian and Busso, IEEE Transactions on Affective Computing 2019: English turns from podcasts, "
        "labelled by a crowd. Its owners license it for research; their licence binds anyone who trains on it.",
        emotions=_codes(
            "A S H U F D C N O X",
            *("anger", "sadness", "happiness", "surprise", "fear", "disgust", "contempt", "neutral", "other", ""),
        ),
        folds=("split",),
        reader="table",
        table={"file": "Labels/labels_consensus.csv", "audio_dir": "Audios"},
    ),
    "synthetic": Corpus(
        title="synthetic speech",
        layout="S01F/S01F_angry_01.wav, as they are generated",
        license="apache-2.0",
        about="The training data are **generated**: source-filter sounds with rule-made pitch, energy and tempo, no "
        "person's voice. The model shows that the code works. **Its scores say nothing about real speech**, and it "
        "is useless on real speech.",
        reader="synthetic",
    ),
    "folder": Corpus(
        title="a folder of recordings",
        layout="one sub-folder of sound files per class, such as angry/anna_01.wav",
        reader="folder",
    ),
    "table": Corpus(
        title="a table of recordings",
        layout="a CSV, TSV, JSONL or Parquet file with the columns file and label, or a folder with metadata.csv",
        reader="table",
    ),
}
"""The corpora by their names in `load_corpus`; `hub:NAMESPACE/NAME` needs no record."""


def corpus_name(name: str) -> str:
    """Return the name in `CORPORA` for any spelling of a name or title, such as `CREMA-D`; keep unknown names."""
    return _SPELLINGS.get(_plain(name), name)


def corpus_record(name: str) -> Corpus:
    """Return the record of a corpus by its name in `load_corpus`; datasets on the Hub only have a title."""
    return CORPORA.get(corpus_name(name)) or Corpus(title=name.removeprefix("hub:"), layout="", reader="hub")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


_SPELLINGS = {_plain(spelling): name for name, record in CORPORA.items() for spelling in (name, record.title)}
