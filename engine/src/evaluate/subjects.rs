//! To which category each subject of an exam belongs, as its authors say: MMLU (Hendrycks et al., 2021), C-Eval (Huang et
//! al., 2023), CMMLU (Li et al., 2023).

/// Categories in the order of a report.
pub const CATEGORIES: [&str; 4] = ["STEM", "Social Sciences", "Humanities", "Other"];

/// The subjects of an exam by category, in the order of [`CATEGORIES`], separated by blanks.
type Exam = [&'static str; 4];

const MMLU: Exam = [
    "abstract_algebra astronomy college_biology college_chemistry college_computer_science college_mathematics \
     college_physics computer_security conceptual_physics electrical_engineering elementary_mathematics \
     high_school_biology high_school_chemistry high_school_computer_science high_school_mathematics high_school_physics \
     high_school_statistics machine_learning",
    "econometrics high_school_geography high_school_government_and_politics high_school_macroeconomics \
     high_school_microeconomics high_school_psychology human_sexuality professional_psychology public_relations \
     security_studies sociology us_foreign_policy",
    "formal_logic high_school_european_history high_school_us_history high_school_world_history international_law \
     jurisprudence logical_fallacies moral_disputes moral_scenarios philosophy prehistory professional_law world_religions",
    "anatomy business_ethics clinical_knowledge college_medicine global_facts human_aging management marketing \
     medical_genetics miscellaneous nutrition professional_accounting professional_medicine virology",
];

const CEVAL: Exam = [
    "computer_network operating_system computer_architecture college_programming college_physics college_chemistry \
     advanced_mathematics probability_and_statistics discrete_mathematics electrical_engineer metrology_engineer \
     high_school_mathematics high_school_physics high_school_chemistry high_school_biology middle_school_mathematics \
     middle_school_biology middle_school_physics middle_school_chemistry veterinary_medicine",
    "college_economics business_administration marxism mao_zedong_thought education_science teacher_qualification \
     high_school_politics high_school_geography middle_school_politics middle_school_geography",
    "modern_chinese_history ideological_and_moral_cultivation logic law chinese_language_and_literature art_studies \
     professional_tour_guide legal_professional high_school_chinese high_school_history middle_school_history",
    "civil_servant sports_science plant_protection basic_medicine clinical_medicine urban_and_rural_planner accountant \
     fire_engineer environmental_impact_assessment_engineer tax_accountant physician",
];

const CMMLU: Exam = [
    "anatomy astronomy college_actuarial_science college_engineering_hydrology college_mathematics \
     college_medical_statistics computer_science conceptual_physics electrical_engineering elementary_mathematics genetics \
     high_school_biology high_school_chemistry high_school_mathematics high_school_physics machine_learning virology",
    "ancient_chinese business_ethics chinese_civil_service_exam chinese_food_culture chinese_foreign_policy \
     chinese_teacher_qualification college_education economics education elementary_chinese ethnology \
     high_school_geography high_school_politics journalism management marketing modern_chinese professional_accounting \
     professional_psychology public_relations security_study sociology",
    "arts chinese_history chinese_literature college_law global_facts international_law jurisprudence logical \
     marxist_theory philosophy professional_law world_history world_religions",
    "agronomy chinese_driving_rule clinical_knowledge college_medicine computer_security construction_project_management \
     elementary_commonsense elementary_information_and_technology food_science human_sexuality legal_and_moral_basis \
     nutrition professional_medicine sports_science traditional_chinese_medicine",
];

/// Knows the categories of one exam.
#[derive(Clone, Copy, Debug)]
pub struct Subjects(Exam);

impl Subjects {
    /// Of the exam that has most of these subjects.
    pub fn of<'a>(subjects: impl Iterator<Item = &'a str> + Clone) -> Self {
        let known = |exam: &Exam| subjects.clone().filter(|subject| category(exam, subject).is_some()).count();
        // Of equal numbers the last wins.
        Self([CMMLU, CEVAL, MMLU].into_iter().max_by_key(known).unwrap_or(MMLU))
    }

    /// The category of a subject; of one that the exam doesn't know, `Other`.
    pub fn category(self, subject: &str) -> &'static str {
        category(&self.0, subject).unwrap_or("Other")
    }
}

fn category(exam: &Exam, subject: &str) -> Option<&'static str> {
    let has = |names: &&str| names.split(' ').any(|name| name == subject);
    exam.iter().position(has).and_then(|i| CATEGORIES.get(i).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exams_have_as_many_subjects_as_their_authors_say() {
        for (exam, counts) in [(MMLU, [18, 12, 13, 14]), (CEVAL, [20, 10, 11, 11]), (CMMLU, [17, 22, 13, 15])] {
            assert_eq!(exam.map(|names| names.split(' ').count()), counts);
        }
        let mmlu = Subjects::of(["marketing", "moral_scenarios"].into_iter());
        assert_eq!((mmlu.category("marketing"), mmlu.category("alchemy")), ("Other", "Other"));
        let cmmlu = Subjects::of(["marketing", "chinese_food_culture"].into_iter());
        assert_eq!((cmmlu.category("marketing"), cmmlu.category("arts")), ("Social Sciences", "Humanities"));
    }
}
