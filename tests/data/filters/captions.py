"""Captions in many languages, written by hand for the tests; not taken from the word lists."""

from __future__ import annotations

CAPTIONS = {
    "en": [
        "A dog running across the beach", "two cups of coffee on a wooden table",
        "Vintage bicycle leaning against a brick wall", "close-up of a bee on lavender",
        "The Eiffel Tower at night", "red sports car", "children playing football in the park",
        "Sunset over the mountains", "a bowl of ramen with eggs and noodles",
        "portrait of an elderly fisherman", "Handmade leather wallet for men",
        "minimalist kitchen", "snow covered pine trees", "a map of the London underground",
    ],
    "de": [
        "Ein Hund läuft am Strand entlang", "zwei Tassen Kaffee auf einem Holztisch",
        "Altes Fahrrad vor einer Ziegelmauer", "Sonnenuntergang über den Bergen",
        "Kinder spielen Fußball im Park", "Porträt eines alten Fischers",
        "roter Sportwagen", "Schale mit Suppe und Brot", "Der Kölner Dom bei Nacht",
        "eine Biene auf Lavendel", "verschneite Kiefern", "Handgemachte Geldbörse aus Leder",
    ],
    "fr": [
        "Un chien court sur la plage", "deux tasses de café sur une table en bois",
        "Vieux vélo contre un mur de briques", "coucher de soleil sur les montagnes",
        "Des enfants jouent au football dans le parc", "portrait d'un vieux pêcheur",
        "voiture de sport rouge", "un bol de soupe avec du pain", "La tour Eiffel la nuit",
        "une abeille sur la lavande", "pins couverts de neige", "portefeuille en cuir fait main",
    ],
    "es": [
        "Un perro corre por la playa", "dos tazas de café sobre una mesa de madera",
        "Bicicleta antigua junto a una pared de ladrillo", "atardecer en las montañas",
        "Niños jugando al fútbol en el parque", "retrato de un viejo pescador",
        "coche deportivo rojo", "un plato de sopa con pan", "La Torre Eiffel por la noche",
        "una abeja en la lavanda", "pinos cubiertos de nieve", "cartera de cuero hecha a mano",
    ],
    "it": [
        "Un cane corre sulla spiaggia", "due tazze di caffè su un tavolo di legno",
        "Vecchia bicicletta contro un muro di mattoni", "tramonto sulle montagne",
        "Bambini che giocano a calcio nel parco", "ritratto di un vecchio pescatore",
        "auto sportiva rossa", "una ciotola di zuppa con il pane", "La Torre Eiffel di notte",
        "un'ape sulla lavanda", "pini coperti di neve", "portafoglio in pelle fatto a mano",
    ],
    "pt": [
        "Um cachorro corre pela praia", "duas xícaras de café em uma mesa de madeira",
        "Bicicleta antiga encostada na parede de tijolos", "pôr do sol nas montanhas",
        "Crianças jogando futebol no parque", "retrato de um velho pescador",
        "carro esportivo vermelho", "uma tigela de sopa com pão", "A Torre Eiffel à noite",
        "uma abelha na lavanda", "pinheiros cobertos de neve", "carteira de couro feita à mão",
    ],
    "nl": [
        "Een hond rent over het strand", "twee kopjes koffie op een houten tafel",
        "Oude fiets tegen een bakstenen muur", "zonsondergang boven de bergen",
        "Kinderen voetballen in het park", "portret van een oude visser", "rode sportwagen",
        "een kom soep met brood", "De Eiffeltoren bij nacht", "een bij op lavendel",
    ],
    "sv": [
        "En hund springer på stranden", "två koppar kaffe på ett träbord",
        "Gammal cykel mot en tegelvägg", "solnedgång över bergen", "Barn spelar fotboll i parken",
        "porträtt av en gammal fiskare", "röd sportbil", "en skål soppa med bröd",
    ],
    "pl": [
        "Pies biegnie po plaży", "dwie filiżanki kawy na drewnianym stole",
        "Stary rower oparty o ceglaną ścianę", "zachód słońca nad górami",
        "Dzieci grają w piłkę w parku", "portret starego rybaka", "czerwony samochód sportowy",
        "miska zupy z chlebem",
    ],
    "tr": [
        "Sahilde koşan bir köpek", "ahşap masada iki fincan kahve",
        "Tuğla duvara yaslanmış eski bisiklet",
        "dağların üzerinde gün batımı", "Parkta futbol oynayan çocuklar", "kırmızı spor araba",
    ],
    "ru": [
        "Собака бежит по пляжу", "две чашки кофе на деревянном столе", "закат над горами",
        "Дети играют в футбол в парке", "красная спортивная машина", "портрет старого рыбака",
    ],
    "uk": ["Собака біжить пляжем", "дві чашки кави на столі", "захід сонця над горами",
           "діти грають у футбол у парку"],
    "zh": ["一只狗在海滩上奔跑", "木桌上的两杯咖啡", "红色跑车", "山上的日落"],
    "ja": ["犬が浜辺を走っている", "木のテーブルの上の二杯のコーヒー",
           "赤いスポーツカー", "山に沈む夕日"],
    "ko": ["해변을 달리는 개", "나무 탁자 위의 커피 두 잔", "빨간 스포츠카"],
    "ar": ["كلب يركض على الشاطئ", "فنجانان من القهوة على طاولة خشبية", "سيارة رياضية حمراء"],
    "el": ["Ένας σκύλος τρέχει στην παραλία", "δύο φλιτζάνια καφέ"],
    "he": ["כלב רץ על החוף", "שתי כוסות קפה על שולחן עץ"],
    "th": ["สุนัขวิ่งบนชายหาด", "รถสปอร์ตสีแดง"],
    "hi": ["समुद्र तट पर दौड़ता कुत्ता", "लाल स्पोर्ट्स कार"],
}  # fmt: skip
