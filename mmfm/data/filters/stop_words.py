"""Frequent words and letters of languages written in Latin letters, for `language.py`.

Articles, prepositions, pronouns, forms of "to be", colours, and a few nouns that captions like.
"""

from __future__ import annotations

STOP_WORDS = {
    "en": "the a an of and in on at to with for from by over under near is are was be being it "
    "its his her their this that these there up down out into through next behind while "
    "who which some two three red blue green yellow white black brown man woman men women "
    "boy girl people child dog cat house street water photo picture drawing sitting "
    "standing wearing holding walking playing riding young old large small",
    "de": "der die das den dem des ein eine einen einem einer eines und in im am an auf aus bei "
    "mit von vom zu zum zur nach vor hinter neben unter über für ist sind war wird werden "
    "sich es er sie ihr sein seine ihre diese dieser zwei drei rot rote roter roten blau "
    "blaue grün grüne gelb gelbe weiß weiße schwarz schwarze mann frau männer frauen "
    "junge mädchen kind kinder leute hund katze haus straße wasser foto bild zeichnung "
    "sitzt steht trägt hält läuft spielt alte kleiner kleine große nicht auch durch",
    "fr": "le la les l d un une des du de et en dans sur sous avec pour par au aux à est sont "
    "était il elle ils elles son sa ses leur leurs ce cette ces qui que deux trois près "
    "devant derrière rouge bleu bleue vert verte jaune blanc blanche noir noire homme "
    "femme hommes femmes garçon fille enfant enfants gens chien chat maison rue eau photo "
    "image dessin assis assise debout porte tient marche joue vieux vieille petit petite "
    "grand grande jeune",
    "es": "el la los las un una unos unas de del y en con por para sobre bajo al a es son está "
    "están era su sus se que este esta estos dos tres cerca junto detrás delante rojo "
    "roja azul verde amarillo amarilla blanco blanca negro negra hombre mujer hombres "
    "mujeres niño niña niños gente perro gato casa calle agua foto imagen dibujo sentado "
    "sentada lleva jugando caminando viejo vieja pequeño pequeña grande joven hacia desde",
    "it": "il lo la i gli le un uno una di del dello della dei degli delle e in nel nella nelle "
    "con su sul sulla per da dal dalla al alla ai è sono era che si suo sua questo questa "
    "due tre vicino davanti dietro sotto sopra rosso rossa blu verde giallo gialla bianco "
    "bianca nero nera uomo donna uomini donne ragazzo ragazza bambino bambina bambini "
    "gente cane gatto casa strada acqua foto immagine disegno seduto seduta piedi gioca "
    "cammina vecchio vecchia piccolo piccola grande",
    "pt": "o a os as um uma uns umas de do da dos das e em no na nos nas com por para sobre ao "
    "à é são está estão era seu sua que este esta dois duas três perto atrás frente "
    "vermelho vermelha azul verde amarelo amarela branco branca preto preta homem mulher "
    "homens mulheres menino menina criança crianças pessoas cão cachorro gato casa rua "
    "água foto imagem desenho sentado sentada jogando andando velho velha pequeno pequena "
    "grande jovem",
    "nl": "de het een van en in op met voor bij aan uit naar over onder naast achter is zijn "
    "was wordt zich hij zij ze haar dit dat deze die twee drie rode rood blauw blauwe "
    "groen groene geel gele wit witte zwart zwarte man vrouw mannen vrouwen jongen meisje "
    "kind kinderen mensen hond kat huis straat water foto tekening afbeelding zit staat "
    "draagt loopt speelt oude kleine grote jonge niet door te",
    "sv": "en ett och i på med av för till från vid under över bakom bredvid är var som den det "
    "de sig sin sitt hans hennes två tre röd rött röda blå blått grön gröna gul gula vit "
    "vita svart svarta man kvinna män kvinnor pojke flicka barn människor hund katt hus "
    "hem gata vatten foto bild teckning sitter står bär håller går leker gammal gamla "
    "liten litet stor stort ung inte",
    "da": "en et og i på med af for til fra ved under over bag er var som den det de sig sin "
    "sit hans hendes to tre rød røde blå grøn grønne gul gule hvid hvide sort sorte mand "
    "kvinde mænd kvinder dreng pige barn børn mennesker hund kat hus gade vand foto "
    "billede tegning sidder står bærer holder går leger gammel gamle lille stor stort ung "
    "ikke",
    "pl": "i w we z ze na do od po pod nad przy obok przed za dla jest są był była się to ten "
    "ta te jego jej który która dwa dwie trzy czerwony czerwona czerwone niebieski "
    "niebieska niebieskie zielony zielona zielone żółty żółta biały biała białe czarny "
    "czarna czarne mężczyzna kobieta ludzie chłopiec dziewczynka dziecko dzieci pies kot "
    "dom ulica ulicy woda zdjęcie obraz rysunek siedzi siedzący stoi nosi trzyma idzie "
    "stary stara mały mała duży duża młody młoda nie",
    "cs": "a v ve z ze na do od po pod nad při vedle před za pro je jsou byl byla se to ten ta "
    "te jeho její který která dva dvě tři červený červená červené modrý modrá modré "
    "zelený zelená žlutý žlutá bílý bílá bílé černý černá černé muž žena muži ženy lidé "
    "chlapec dívka dítě děti pes kočka dům ulice ulici voda vodě fotografie obrázek "
    "kresba sedí stojí nosí drží jde hraje starý stará malý malá velký velká mladý mladá "
    "není",
    "tr": "bir ve ile için bu şu o de da üzerinde altında yanında önünde arkasında içinde olan "
    "var iki üç kırmızı mavi yeşil sarı beyaz siyah adam kadın erkek çocuk kız insanlar "
    "köpek kedi ev sokak sokakta su fotoğraf resim çizim oturan oturuyor duran ayakta "
    "giyen tutan yürüyen oynayan oynuyor yaşlı küçük büyük genç çok",
    "fi": "ja on ovat ei se ne hän joka jossa kanssa päällä alla vieressä edessä takana yksi "
    "kaksi kolme punainen sininen vihreä keltainen valkoinen musta mies nainen miehet "
    "naiset poika tyttö lapsi lapset ihmiset ihmisiä koira kissa talo talon katu kadulla "
    "vesi vedessä kuva valokuva piirros istuu seisoo pitää kävelee leikkii vanha pieni "
    "suuri iso nuori",
    "ro": "un o unui unei și si de din în la cu pe pentru lângă sub peste este sunt era se care "
    "acest această doi două trei roșu roșie albastru albastră verde galben galbenă alb "
    "albă negru neagră bărbat femeie oameni băiat fată copil copii câine pisică casă casa "
    "stradă apă fotografie imagine desen stă poartă ține merge joacă bătrân mic mică mare "
    "tânăr tânără",
    "hu": "a az egy és van nem hogy ez is mellett alatt felett előtt mögött között két három "
    "piros kék zöld sárga fehér fekete férfi nő férfiak nők fiú lány gyerek gyerekek "
    "emberek kutya macska ház utca utcán víz fénykép kép rajz ül áll visel tart sétál "
    "játszik öreg kis nagy fiatal",
    "vi": "một và của trong trên với cho là có không này đang hai ba bên cạnh dưới trước sau "
    "màu đỏ xanh vàng trắng đen người đàn ông phụ nữ bé con chó mèo nhà đường phố nước "
    "ảnh bức tranh ngồi đứng mặc cầm đi chơi già nhỏ lớn trẻ",
    "id": "yang di dan dengan untuk dari ke pada ini itu adalah ada sebuah seorang seekor dua "
    "tiga atas bawah dekat depan belakang merah biru hijau kuning putih hitam pria wanita "
    "laki perempuan anak orang anjing kucing rumah jalan air foto gambar lukisan duduk "
    "berdiri memakai memegang berjalan bermain tua kecil besar muda",
}

# words of the lists that are English words or abbreviations too
ENGLISH_TOO = (
    "adam ai air al alt bag barn bar cane care chat con dan das dem den der des di die do dom "
    "door dos due el elle era er est et gala gate grand hem holder hus il image iso jest kind "
    "kinder la las leger les lo los mare med merge met mic negro no non noir och od op or os "
    "par para pe per petite piccolo pies po pod por pour pro qui rode rot rote rouge rue sa "
    "se sein sin sit son sort stand su sub sur sus svelte talon tart te ten till um un uno "
    "van var vert verde vest vit von war wit yang za"
)

LETTERS = {
    "de": "äöüß", "fr": "àâçèéêëîïôùûœ", "es": "ñáéíóú¿¡", "it": "àèéìòù", "pt": "ãõáâçéêíóôú",
    "sv": "åäö", "da": "æøå", "pl": "ąćęłńóśźż", "cs": "áčďéěíňřšťúůýž", "tr": "çğışöü",
    "fi": "äö", "ro": "ăâîșțşţ", "hu": "áéíóöőúüű",
    "vi": "ăđêôơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
}  # fmt: skip
